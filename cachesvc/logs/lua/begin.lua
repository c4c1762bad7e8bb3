#!lua
-- Begin an epoch: the first one of an empty store, or one past what a node has seen. Once, if several ask at once: whoever
-- finds an epoch past the one it saw, and no sequence missing, is given that one's first position.
-- An epoch is named by its first sequence, which is past every sequence seen, so that a version never means two things.
-- Returns the epoch.
--
-- KEYS  state, log
-- ARGV  epoch seen, sequence seen, channel, the last sequence that is the same in both ('': as far as both go), most gaps
local state = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'gaps')
local epoch, head = tonumber(state[1] or '-1'), tonumber(state[2] or '-1')
local seen_epoch, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch > seen_epoch and head >= seen then return state[1] end

local now = redis.call('TIME')
local first = math.max(head + 1, seen + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
local name = string.format('%.0f', first)
local gaps = state[3] or ''
if seen > 0 then -- else there was nothing before
  local kept = math.max(math.min(head, tonumber(ARGV[4]) or seen), 0)
  local gap = string.format('%.0f-%.0f', kept + 1, first - 1)
  gaps = gaps == '' and gap or gaps .. ',' .. gap
  local _, commas = string.gsub(gaps, ',', ',')
  if commas >= tonumber(ARGV[5]) then gaps = string.gsub(gaps, '^(%d+)%-%d+,%d+%-', '%1-') end
end
redis.call('HSET', KEYS[1], 'gaps', gaps, 'epoch', name, 'head', name, 'trimmed_to', name, 'complete_since', name, 'bytes', '0')
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], name)
return name
