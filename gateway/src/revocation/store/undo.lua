-- Removes an entry.
-- KEYS: version, entries, ends. ARGV: the target. Answers how many were removed.
local lost = lacks_some(KEYS[1], KEYS[2])
local removed = redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if removed > 0 then
  raise(KEYS[1], KEYS[2], lost)
end
return removed
