#!lua
-- Write a job over the revision that was seen. Returns 1, or 0 when another is kept.
--
-- KEYS  jobs, bodies, open
-- ARGV  id, job, the revision that was seen, 1 when it has ended
local jobs, bodies, open = unpack(KEYS)
local id, job, seen, ended = unpack(ARGV)
local held = redis.call('HGET', jobs, id)
if not held or string.sub(held, 1, #seen) ~= seen then return 0 end
redis.call('HSET', jobs, id, job)
if ended == '1' then
  redis.call('HDEL', bodies, id)
  redis.call('HDEL', open, id)
end
return 1
