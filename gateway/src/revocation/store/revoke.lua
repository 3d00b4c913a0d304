-- Adds entries, or makes what is there hold longer; removes what has ended.
-- KEYS: version, entries, ends. ARGV: the most entries, then for each entry its
-- target, its end and its "issued before", in seconds since 1970.
-- Answers how many entries found no room.
local lost = lacks_some(KEYS[1], KEYS[2])
local now = redis.call('TIME')[1]
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 10000)
for _, target in ipairs(ended) do
  redis.call('HDEL', KEYS[2], target)
  redis.call('ZREM', KEYS[3], target)
end
local refused = 0
for i = 2, #ARGV, 3 do
  local target, ends, before = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local known = redis.call('HGET', KEYS[2], target)
  if known then
    local known_ends, known_before = string.match(known, '^(%d+) (%d+)$')
    ends = math.max(ends, tonumber(known_ends) or 0)
    before = math.max(before, tonumber(known_before) or 0)
  end
  if known or redis.call('HLEN', KEYS[2]) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[2], target, string.format('%.0f %.0f', ends, before))
    redis.call('ZADD', KEYS[3], string.format('%.0f', ends), target)
  else
    refused = refused + 1
  end
end
raise(KEYS[1], KEYS[2], lost)
return refused
