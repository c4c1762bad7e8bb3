#!lua
-- Commit what a fold made, if the log is still where it was when the rows were read. Every change moves the head, so under
-- an unmoved head no row has moved. The batch's record is there exactly if the batch was committed, or given up for good.
-- It is the log that the caller knows only if it has the newest change that the caller has seen of it.
-- Returns 1 committed, 0 moved (fold again), -1 known already, -2 of another history.
--
-- KEYS  state, log, keys, ends, gone, batch, patterns, revocations, agenda, agenda's bodies, its names, its names by when due
-- ARGV  epoch, head, new head, bytes, batch record, ms that answers are kept, channel, prefix of rows; epoch
--       and sequence of the newest change seen, and what its record begins with; then six lists, each after its length:
--       records, rows, answers, patterns, revocations, items of the agenda
local state, log, keys, ends, gone, batch, patterns, revocations, agenda, bodies, names, dues = unpack(KEYS)
local epoch, head, moved, bytes, record, keep, channel, prefix = unpack(ARGV, 1, 8)

if redis.call('EXISTS', batch) == 1 then return -1 end
local at = redis.call('HMGET', state, 'epoch', 'head', 'trimmed_to')
if at[1] ~= epoch or at[2] ~= head then return 0 end

local seen_epoch, seen, opening = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
if tonumber(epoch) < seen_epoch then return -2 end
if tonumber(epoch) == seen_epoch and seen ~= seen_epoch and seen > tonumber(at[3]) then
  local found = redis.call('XRANGE', log, ARGV[10] .. '-0', ARGV[10] .. '-0')[1]
  if not found or string.sub(found[2][6], 1, #opening) ~= opening then return -2 end
end

local place = 11
local function take()
  place = place + 1
  return ARGV[place]
end

for _ = 1, tonumber(take()) do -- the log first: it alone can refuse, and then nothing was written
  local id, kind, key, said, before, held, value = take(), take(), take(), take(), take(), take(), take()
  if held == '1' then
    redis.call('XADD', log, id, 'k', kind, 'n', key, 'r', said, 'b', before, 'v', value)
  else
    redis.call('XADD', log, id, 'k', kind, 'n', key, 'r', said, 'b', before)
  end
end

for _ = 1, tonumber(take()) do
  local key, row, deleted, expires = take(), take(), take(), take()
  redis.call('SET', prefix .. key, row)
  if deleted == '1' then
    redis.call('ZREM', keys, key)
    redis.call('ZREM', ends, key)
    redis.call('ZADD', gone, expires, key)
  else
    redis.call('ZADD', keys, 0, key)
    redis.call('ZREM', gone, key)
    if expires == '' then
      redis.call('ZREM', ends, key)
    else
      redis.call('ZADD', ends, expires, key)
    end
  end
end

for _ = 1, tonumber(take()) do
  local key, answer = take(), take()
  redis.call('SET', key, answer, 'PX', keep)
end

local changed = tonumber(take())
for _ = 1, changed do
  local text, said = take(), take()
  redis.call('HSET', patterns, text, said)
end
if changed > 0 then redis.call('HSET', state, 'patterns_at', moved) end

for _ = 1, tonumber(take()) do -- of two of the same name the one that lasts longer, which begins with the greater bytes
  local name, said = take(), take()
  local held = redis.call('HGET', revocations, name)
  if not held or held < said then redis.call('HSET', revocations, name, said) end
end

for _ = 1, tonumber(take()) do
  local name, due, said, body = take(), take(), take(), take()
  if due == '' then
    redis.call('HDEL', agenda, name)
    redis.call('HDEL', bodies, name)
    redis.call('ZREM', names, name)
    redis.call('ZREM', dues, name)
  else
    redis.call('HSET', agenda, name, said)
    redis.call('HSET', bodies, name, body)
    redis.call('ZADD', names, 0, name)
    redis.call('ZADD', dues, due, name)
  end
end

redis.call('SET', batch, record, 'PX', keep)
if moved ~= head then
  redis.call('HSET', state, 'head', moved, 'bytes', bytes)
  redis.call('PUBLISH', channel, moved)
end
return 1
