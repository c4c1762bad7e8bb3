-- Retire: nothing that was read before an invalidation is taken in any more, and what it killed is dropped.
-- Rule: `low` is raised before anything is dropped, or what is dropped could be put again.
--
-- KEYS  a group for each partition: its state, its recent, then the keys of entries that match
-- ARGV  epoch, sequence of the invalidation, then a group for each partition: generation, count
-- Answers the state of each partition.

local function version_of(head)
  local a, b, c, d, e, f, g = string.byte(head, 2, 8)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

local epoch, sequence = ARGV[1], ARGV[2]
local k, a, answers = 0, 2, {}

while k < #KEYS do
  local state_key, recent = KEYS[k + 1], KEYS[k + 2]
  local generation, count = ARGV[a + 1], tonumber(ARGV[a + 2])
  k, a = k + 2, a + 2
  local state = redis.pcall('GET', state_key)
  if type(state) == 'table' then state = false end -- something else stands in its place: it says nothing
  local of_epoch, cursor, low, of_generation, id = string.match(state or '', '^(%d+) (%d+) (%d+) (%x+) (%S+)$')
  if of_epoch == epoch and of_generation == generation then
    if tonumber(low) < tonumber(sequence) then
      state = string.format('%s %s %s %s %s', epoch, cursor, sequence, generation, id)
      redis.call('SET', state_key, state)
      if redis.call('TYPE', recent).ok ~= 'zset' then redis.call('UNLINK', recent) end -- as if it had been evicted
      redis.call('ZREMRANGEBYSCORE', recent, '-inf', sequence)
    end
    for i = 1, count do
      local head = redis.pcall('GETRANGE', KEYS[k + i], 0, 7)
      if type(head) == 'string' and #head == 8 and version_of(head) < tonumber(sequence) then
        redis.call('UNLINK', KEYS[k + i])
      end
    end
  end
  answers[#answers + 1] = state
  k = k + count
end
return answers
