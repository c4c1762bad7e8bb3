-- Put: an entry enters unless something newer is held or known; what is dead removes what is older.
-- Rule: refuse by token before looking at anything else. What happened between `low` and the cursor is in `recent`; what
-- happened before `low` is forgotten, so whoever comes from before it cannot be judged and is refused.
--
-- KEYS  a group for each partition: its state, its recent, then the keys of the entries
-- ARGV  epoch, token, then a group for each partition: generation, count, then for each entry
--       member of recent, version, milliseconds to live (0: it is dead), value
-- Answers for each group {state, result of each entry ...}: 1 settled, 0 refused, else the newer value that is held;
-- {state} alone when the partition is of another generation or epoch.

local function version_of(head)
  local a, b, c, d, e, f, g = string.byte(head, 2, 8)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

local epoch, token = ARGV[1], tonumber(ARGV[2])
local k, a, answers = 0, 2, {}

while k < #KEYS do
  local state_key, recent = KEYS[k + 1], KEYS[k + 2]
  local generation, count = ARGV[a + 1], tonumber(ARGV[a + 2])
  k, a = k + 2, a + 2
  local state = redis.pcall('GET', state_key)
  if type(state) == 'table' then state = false end -- something else stands in its place: it says nothing
  local answer = { state }
  answers[#answers + 1] = answer
  local of_epoch, cursor, low, of_generation, id = string.match(state or '', '^(%d+) (%d+) (%d+) (%x+) (%S+)$')
  if of_epoch == epoch and of_generation == generation and count > 0 then
    low = tonumber(low)
    if redis.call('TYPE', recent).ok ~= 'zset' then redis.call('UNLINK', recent) end -- as if it had been evicted
    if not redis.call('ZSCORE', recent, '') then
      -- recent was evicted: nothing is known of what changed up to the cursor
      low = tonumber(cursor)
      state = string.format('%s %s %s %s %s', epoch, cursor, cursor, generation, id)
      redis.call('SET', state_key, state)
      redis.call('ZADD', recent, 'inf', '')
      answer[1] = state
    end
    for i = 1, count do
      local key, member, version, ttl = KEYS[k + i], ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3]
      local result = 1
      if math.max(token, version) < low then
        result = 0
      else
        local known = redis.call('ZSCORE', recent, member)
        if known and tonumber(known) > version then
          result = 0
        else
          local head = redis.pcall('GETRANGE', key, 0, 7)
          local held = type(head) == 'string' and #head == 8 and version_of(head) or -1
          if held > version then
            result = redis.call('GET', key)
          elseif ttl == '0' then
            if held < version then redis.call('UNLINK', key) end
          elseif held < version then
            redis.call('SET', key, ARGV[a + 4], 'PX', ttl)
          end
        end
      end
      answer[i + 1] = result
      a = a + 4
    end
  else
    a = a + 4 * count
  end
  k = k + count
end
return answers
