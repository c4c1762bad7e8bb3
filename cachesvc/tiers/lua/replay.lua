-- Replay: what is older than a change is dropped, its version noted, and the cursor moves on.
-- Rule: a partition moves only from exactly where the caller left it. Moved from anywhere else it would have passed over
-- changes, and would then be believed without having seen them. For the same reason it passes a retirement only where `low`
-- says that the sweep came this way: it may have been set back to right before it.
-- The empty member of recent, which sorts last, says that nothing was evicted of it: only put and restart may set it.
--
-- KEYS  a group for each partition: its state, its recent, then the keys of the changed entries
-- ARGV  epoch, cursor to move to, limit of recent, the least that low must be, id of the change at the new cursor; then
--       a group for each partition: generation, expected cursor, count,
--       then for each change member of recent, version
-- Answers 1 for each partition that moved, else 0.

local function version_of(head)
  local a, b, c, d, e, f, g = string.byte(head, 2, 8)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

local epoch, upto, limit, upto_id = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local least = tonumber(ARGV[4])
local k, a, answers = 0, 5, {}

while k < #KEYS do
  local state_key, recent = KEYS[k + 1], KEYS[k + 2]
  local generation, expected, count = ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
  k, a = k + 2, a + 3
  local state = redis.pcall('GET', state_key)
  if type(state) == 'table' then state = false end -- something else stands in its place: it says nothing
  local of_epoch, cursor, low, of_generation = string.match(state or '', '^(%d+) (%d+) (%d+) (%x+) %S+$')
  local moves = of_epoch == epoch and of_generation == generation and cursor == expected and tonumber(low) >= least
  if moves then
    if count > 0 then
      if redis.call('TYPE', recent).ok ~= 'zset' then redis.call('UNLINK', recent) end -- as if it had been evicted
      for i = 1, count do
        local key, member, version = KEYS[k + i], ARGV[a + 2 * i - 1], ARGV[a + 2 * i]
        local head = redis.pcall('GETRANGE', key, 0, 7)
        if head ~= '' and (type(head) ~= 'string' or #head < 8 or version_of(head) < tonumber(version)) then
          redis.call('UNLINK', key)
        end
        redis.call('ZADD', recent, 'GT', version, member)
      end
      local over = redis.call('ZCARD', recent) - 1 - limit
      if over > 0 then
        local dropped = redis.call('ZRANGE', recent, over - 1, over - 1, 'WITHSCORES')
        redis.call('ZREMRANGEBYRANK', recent, 0, over - 1)
        if tonumber(dropped[2]) > tonumber(low) then low = string.format('%.0f', tonumber(dropped[2])) end
      end
    end
    redis.call('SET', state_key, string.format('%s %s %s %s %s', epoch, upto, low, generation, upto_id))
  end
  answers[#answers + 1] = moves and 1 or 0
  k, a = k + count, a + 2 * count
end
return answers
