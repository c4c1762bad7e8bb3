#!lua flags=allow-oom
-- Give leases back that are still one's own.
--
-- KEYS  leases
-- ARGV  holder
-- Answers for each lease 1 where it was, else 0.
local released = {}
for i, key in ipairs(KEYS) do
  released[i] = redis.call('GET', key) == ARGV[1] and redis.call('DEL', key) or 0
end
return released
