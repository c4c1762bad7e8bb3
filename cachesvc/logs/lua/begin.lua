#!lua
-- Begin an epoch: the first one of an empty store, or one past what a node has seen. Once, if several ask at once: whoever
-- finds an epoch past the one it saw, and no sequence missing, is given that one's first position.
-- An epoch is named by its first sequence, which is past every sequence seen, so that a version never means two things.
-- Returns the epoch.
--
-- KEYS  state, log
-- ARGV  epoch seen, sequence seen, channel
local state = redis.call('HMGET', KEYS[1], 'epoch', 'head')
local epoch, head = tonumber(state[1] or '-1'), tonumber(state[2] or '-1')
local seen_epoch, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch > seen_epoch and head >= seen then return state[1] end

local now = redis.call('TIME')
local first = math.max(head + 1, seen + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
local name = string.format('%.0f', first)
redis.call('HSET', KEYS[1], 'epoch', name, 'head', name, 'trimmed_to', name, 'complete_since', name, 'bytes', '0')
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], name)
return name
