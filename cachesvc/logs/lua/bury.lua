#!lua flags=allow-oom
-- End what an active pattern kills, or leave it stale: rows that are still the ones that were seen. How far that came is
-- noted with the pattern.
-- Returns 1, or 0 when the pattern is not the one that was seen any more; then nothing was done.
--
-- KEYS  keys, ends, gone, patterns
-- ARGV  name of the pattern, what was noted with it, what is noted now, prefix of rows, digits of a version, 1 for stale,
--       then key, version (as the row begins), what is left, and its end in turns
local keys, ends, gone, patterns = unpack(KEYS)
local name, noted, notes, prefix, digits, soft = unpack(ARGV, 1, 6)
if redis.call('HGET', patterns, name) ~= noted then return 0 end
for i = 7, #ARGV, 4 do
  local key, version, left, expires = unpack(ARGV, i, i + 3)
  local row = prefix .. key
  if redis.call('GETRANGE', row, 0, digits - 1) == version then
    redis.call('SET', row, left)
    if soft == '1' then
      redis.call('ZADD', ends, expires, key)
    else
      redis.call('ZREM', keys, key)
      redis.call('ZREM', ends, key)
      redis.call('ZADD', gone, expires, key)
    end
  end
end
redis.call('HSET', patterns, name, notes)
return 1
