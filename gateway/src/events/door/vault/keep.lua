-- Keeps a pass, and of one subject the newest alone. Answers 0, and keeps
-- nothing, if the ticket that it comes for is not there.
--
-- KEYS[1] where the pass is kept; KEYS[2] the set of its subject's: where each is
-- kept, in the order in which they were put; KEYS[3], if given, the ticket that
-- it comes for, which goes. All of these lie on one node of a cluster, by the tag
-- in their names
-- ARGV[1] the pass; ARGV[2] its life in ms; ARGV[3] how many one subject may have
if KEYS[3] and redis.call('DEL', KEYS[3]) == 0 then
  return 0
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
-- A number and no time: a clock that was set back would make the newest the oldest.
redis.call('ZADD', KEYS[2], string.format('%.0f', (last[2] or 0) + 1), KEYS[1])
local over = redis.call('ZCARD', KEYS[2]) - ARGV[3]
if over > 0 then
  -- First those that were used or have ended, which Redis has dropped by itself.
  for _, other in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if other ~= KEYS[1] and redis.call('EXISTS', other) == 0 then
      redis.call('ZREM', KEYS[2], other)
      over = over - 1
    end
  end
end
if over > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
    redis.call('DEL', oldest)
    redis.call('ZREM', KEYS[2], oldest)
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
-- The set lives as long as the last of them.
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return 1
