#!lua flags=allow-oom
-- Forget revocations of tokens that have ended, where nothing was written over them meanwhile.
--
-- KEYS  revocations
-- ARGV  the name of each and what was noted with it
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
