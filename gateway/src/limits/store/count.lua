-- Counts calls in buckets (GCRA). A key holds the time at which its bucket is
-- full again and the time at which that was written, in microseconds of the
-- server's clock, and lives until it is full. A clock that was set back since
-- takes the first along.
--
-- KEYS[1]   the set of living gateways; KEYS[2] since when this server has been
--           at the service of any; KEYS[3] the name of its memory, which it
--           keeps for as long as it forgets nothing; KEYS[4..] one bucket each
-- ARGV[1]   this gateway; ARGV[2] how long a gateway counts as living, in ms; 0
--           not to say that this one does; ARGV[3] after how long without a word
--           of any gateway the service began anew, in ms; ARGV[4] gateways that
--           share what this server can't count; ARGV[5] a name for its memory
--           where it has none; ARGV[6] the name that the asker knows, or '':
--           where it is another nothing is counted, so that the asker can say
--           what it saw
-- then for each bucket: calls wanted (below 0: given back), microseconds per
-- call, calls of a full bucket, and four times in microseconds: the bucket is
-- full no sooner than so long from now; what to charge; what was let in without
-- this server, and for how long
--
-- Answers: living gateways (-1: not asked), the name of the memory, the keys
-- above that held something else and were made anew; then for each bucket calls
-- granted, microseconds until it is full, and until one more call fits; or text
-- that says what is wrong with its key.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local mended = {}
local answers = {-1, '', mended}
-- What others put in the place of these keys must not end all counting.
local function call(key, command, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then
    redis.call('DEL', key)
    mended[#mended + 1] = key
  end
  return redis.call(command, key, ...)
end
-- The first write takes memory: a server that has none left refuses it all.
local since = math.min(tonumber(call(KEYS[2], 'GET') or now) or now, now)
redis.call('SET', KEYS[2], string.format('%.0f', since), 'PX', ARGV[3])
local life = tonumber(ARGV[2])
if life > 0 then
  local oldest = string.format('(%.0f', now - life * 1000)
  call(KEYS[1], 'ZADD', string.format('%.0f', now), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', oldest)
  -- Of before the clock was set back.
  redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')
  redis.call('PEXPIRE', KEYS[1], life * 10)
  answers[1] = redis.call('ZCARD', KEYS[1])
end
answers[2] = call(KEYS[3], 'GET')
if not answers[2] then
  redis.call('SET', KEYS[3], ARGV[5])
  answers[2] = ARGV[5]
end
if ARGV[6] ~= '' and ARGV[6] ~= answers[2] then return answers end
for i = 4, #KEYS do
  local at = 7 + (i - 4) * 7
  local calls, interval = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local fill = interval * ARGV[at + 2]
  local floor, charge = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  -- While others had the whole rate here, the asker had its share of it besides.
  local served = math.min(ARGV[at + 6], now - since)
  charge = math.min(charge + served / ARGV[4], ARGV[at + 5])
  local held = redis.pcall('GET', KEYS[i])
  local known
  if type(held) == 'string' then
    local full_at, written = string.match(held, '^(%d+%.%d+) (%d+)$')
    known = full_at and full_at - math.max(0, written - now)
  end
  if held and not known then
    answers[i] = type(held) == 'table' and held.err or 'the value is no time'
  else
    local full_at = math.max(known or 0, now + floor) + charge
    local granted = 0
    if calls > 0 then
      -- Half a microsecond for what rounding took.
      local room = math.floor((now + fill - full_at + 0.5) / interval)
      granted = math.max(0, math.min(calls, room))
      full_at = full_at + granted * interval
    else
      full_at = full_at + calls * interval
    end
    local full_in = full_at - now
    if full_in <= 0 then
      full_in = 0
      if known then redis.call('DEL', KEYS[i]) end
    elseif full_at ~= known then
      local life = string.format('%.0f', math.ceil(full_in / 1000) + 1)
      redis.call('SET', KEYS[i], string.format('%.3f %.0f', full_at, now), 'PX', life)
    end
    local wait = math.max(0, full_in + interval - fill)
    answers[i] = {granted, math.ceil(full_in), math.ceil(wait)}
  end
end
return answers
