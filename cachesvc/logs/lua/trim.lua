#!lua
-- Forget the records up to one, and say so in the same step, so that a reader never takes a gap for the beginning.
-- Returns how many were forgotten.
--
-- KEYS  state, log
-- ARGV  epoch, the last record to forget
local state = redis.call('HMGET', KEYS[1], 'epoch', 'trimmed_to', 'head')
local upto = tonumber(ARGV[2])
if state[1] ~= ARGV[1] or upto <= tonumber(state[2]) or upto >= tonumber(state[3]) then return 0 end
redis.call('HSET', KEYS[1], 'trimmed_to', ARGV[2])
return redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', upto + 1))
