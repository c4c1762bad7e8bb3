#!lua flags=allow-oom
-- Take leases, or renew one's own.
-- Rule: what another holds is left as it is.
--
-- KEYS  leases
-- ARGV  holder, ms
-- Answers for each lease 0 where it is held now, else the milliseconds for which another has it.
local left = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[1] then
    left[i] = math.max(1, redis.call('PTTL', key))
  else
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    left[i] = 0
  end
end
return left
