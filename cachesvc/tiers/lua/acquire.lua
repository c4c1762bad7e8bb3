#!lua flags=allow-oom
-- Take leases, or renew one's own.
-- Rule: what another holds is left as it is, but for what ends later than any lease does: the clock was set back since.
--
-- KEYS  leases
-- ARGV  holder, ms, how many times as much is later than any
-- Answers for each lease 0 where it is held now, else the milliseconds for which another has it.
local left = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  local ends = redis.call('PTTL', key)
  if holder and holder ~= ARGV[1] and ends <= ARGV[2] * ARGV[3] then
    left[i] = math.max(1, ends)
  else
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    left[i] = 0
  end
end
return left
