#!lua flags=allow-oom
-- Drop tombstones that are still the ones that were seen. What was known from them is known from `complete_since` after.
-- Returns how many were dropped.
--
-- KEYS  state, gone
-- ARGV  prefix of rows, digits of a version, then key and version (as the row begins) in turns
local since = redis.call('HGET', KEYS[1], 'complete_since')
if not since then return 0 end
local dropped = 0
for i = 3, #ARGV, 2 do
  local key, version = ARGV[i], ARGV[i + 1]
  local row = ARGV[1] .. key
  -- no longer in `gone`: it was written since it was found to be past its time, and is what the version was read of
  if redis.call('ZSCORE', KEYS[2], key) and redis.call('GETRANGE', row, 0, ARGV[2] - 1) == version then
    if tonumber(version) > tonumber(since) then since = string.format('%.0f', tonumber(version)) end
    redis.call('DEL', row)
    redis.call('ZREM', KEYS[2], key)
    dropped = dropped + 1
  end
end
redis.call('HSET', KEYS[1], 'complete_since', since)
return dropped
