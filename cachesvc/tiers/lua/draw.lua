#!lua
-- Draw from a budget that fills with time: what is kept is when it will be full again.
--
-- KEYS  the budget
-- ARGV  seconds asked for, seconds of the whole budget
-- Answers the seconds given and those used now, in one text.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local most = now + tonumber(ARGV[2])
local full = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now), most) -- later: the clock was set back
local moved = math.max(full, math.min(full + tonumber(ARGV[1]), most))
if moved > now then
  redis.call('SET', KEYS[1], string.format('%.6f', moved), 'PX', math.ceil((moved - now) * 1000) + 1)
end
return {string.format('%.6f %.6f', moved - full, moved - now)}
