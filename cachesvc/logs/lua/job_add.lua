#!lua
-- Keep a new job, or find the one that does the same and has not ended.
-- Returns the job that is kept, or nil when as many have not ended as may.
--
-- KEYS  jobs, bodies, open
-- ARGV  id, job, body, what it does ("" for what may be done twice), most
local jobs, bodies, open = unpack(KEYS)
local id, job, body, same, most = unpack(ARGV)
if same ~= '' then
  local held = redis.call('HGETALL', open)
  for i = 1, #held, 2 do
    if held[i + 1] == same then return redis.call('HGET', jobs, held[i]) end
  end
end
if redis.call('HLEN', open) >= tonumber(most) then return false end
redis.call('HSET', jobs, id, job)
redis.call('HSET', bodies, id, body)
redis.call('HSET', open, id, same)
return job
