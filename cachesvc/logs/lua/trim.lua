#!lua flags=allow-oom
-- Forget the records up to one, and say so in the same step, so that a reader never takes a gap for the beginning. What was
-- answered to a batch is forgotten with the last of its records.
-- Returns how many were forgotten.
--
-- KEYS  state, log
-- ARGV  epoch, the last record to forget, prefix of the batches' records
local state = redis.call('HMGET', KEYS[1], 'epoch', 'trimmed_to', 'head')
local upto = tonumber(ARGV[2])
if state[1] ~= ARGV[1] or upto <= tonumber(state[2]) or upto >= tonumber(state[3]) then return 0 end

local function batch_of(record)
  return string.match(record[2][6], '^{"i":"([^"]*)%-%d+"')
end

local left = string.format('%.0f', upto + 1)
local first = redis.call('XRANGE', KEYS[2], left, '+', 'COUNT', 1)[1]
local kept = first and batch_of(first)
local from = '-'
while true do -- a few at a time: values come along
  local records = redis.call('XRANGE', KEYS[2], from, '(' .. left, 'COUNT', 100)
  for _, record in ipairs(records) do
    local batch = batch_of(record)
    if batch and batch ~= kept then redis.call('UNLINK', ARGV[3] .. batch) end
  end
  if #records < 100 then break end
  from = '(' .. records[#records][1]
end
redis.call('HSET', KEYS[1], 'trimmed_to', ARGV[2])
return redis.call('XTRIM', KEYS[2], 'MINID', left)
