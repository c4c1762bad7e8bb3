#!lua
-- End what an active pattern kills: rows that are still the ones that were seen. How far that came is noted with the pattern.
-- Returns 1, or 0 when the pattern is not the one that was seen any more; then nothing was done.
--
-- KEYS  keys, ends, gone, patterns
-- ARGV  text of the pattern, what was noted with it, what is noted now, prefix of rows, digits of a version, end of the
--       tombstones, then key, version (as the row begins) and tombstone in turns
local keys, ends, gone, patterns = unpack(KEYS)
local text, noted, notes, prefix, digits, expires = unpack(ARGV, 1, 6)
if redis.call('HGET', patterns, text) ~= noted then return 0 end
for i = 7, #ARGV, 3 do
  local key, version, tombstone = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local row = prefix .. key
  if redis.call('GETRANGE', row, 0, digits - 1) == version then
    redis.call('SET', row, tombstone)
    redis.call('ZREM', keys, key)
    redis.call('ZREM', ends, key)
    redis.call('ZADD', gone, expires, key)
  end
end
redis.call('HSET', patterns, text, notes)
return 1
