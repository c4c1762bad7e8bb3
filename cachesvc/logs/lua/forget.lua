#!lua flags=allow-oom
-- Forget retired patterns: what began before them cannot be judged any more, which `complete_since` says from now on.
--
-- KEYS  state, patterns
-- ARGV  highest sequence of them, then the text of each and what was noted with it
local since = tonumber(redis.call('HGET', KEYS[1], 'complete_since') or '0')
if tonumber(ARGV[1]) > since then redis.call('HSET', KEYS[1], 'complete_since', ARGV[1]) end
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
return 1
