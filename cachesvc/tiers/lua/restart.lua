-- Restart: a partition begins anew and empty at a position.
-- Rule: a generation is never used twice, or entries of an earlier one would be back. It is the server's time in µs, since the
-- state that would tell the last one may be lost while its entries are still there.
--
-- KEYS  for each partition its state, its recent
-- ARGV  epoch, sequence, id of the change there
-- Answers the new state of each partition.

local time = redis.call('TIME')
local generation = string.format('%x', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local state = string.format('%s %s %s %s %s', ARGV[1], ARGV[2], ARGV[2], generation, ARGV[3])
local answers = {}
for k = 1, #KEYS, 2 do
  redis.call('SET', KEYS[k], state)
  redis.call('UNLINK', KEYS[k + 1])
  redis.call('ZADD', KEYS[k + 1], 'inf', '')
  answers[#answers + 1] = state
end
return answers
