-- What the scripts of the log share; it stands before each of them.
--
-- KEYS: 1 the log, a stream; 2 its books, a hash; 3 its segments, a list.
-- ARGV: 1 the run id of this server; 2 and 3 epoch and offset of the newest
-- entry that the caller knows of, or 0.
--
-- The books: run (of the server that they are of), epoch and offset (of the
-- last entry), entries and bytes (appended in all, of every epoch), mark (the
-- number of the last mark), own (PUBLISH commands of these scripts in this
-- epoch), heard (PUBLISH commands of others of which is recorded what there was
-- to record), rec_mark and rec_count (the coordinate of the last message that
-- was recorded), commit (every message before this mark is recorded), held (until
-- when the lease was taken), seg_* (where the last segment begins), keep_* (what is
-- retained), calls and reset (what the server's statistics said at the last look).
--
-- A segment is a part of the log, named by what the books said when it began:
-- entries, bytes, time. So the log is cut without reading it, at most a part in
-- 32 later than it could be.
local LOG, BOOKS, SEGMENTS = KEYS[1], KEYS[2], KEYS[3]
local RUN, KNOWN_EPOCH, KNOWN_OFFSET = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local OVERHEAD, PARTS = 128, 32
-- Up to here numbers are exact.
local HIGHEST = 2 ^ 53
local FIELDS = {'epoch', 'offset', 'entries', 'bytes', 'mark', 'own', 'heard', 'rec_mark',
  'rec_count', 'commit', 'held', 'seg_entries', 'seg_bytes', 'seg_time', 'keep_bytes',
  'keep_events', 'keep_age', 'calls', 'reset'}

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local books, changed = {}, {}

local function set(name, value)
  books[name], changed[name] = value, true
end

-- Numbers up to 2^53 pass unharmed, in full.
local function text(value)
  return value and string.format('%.0f', value) or ''
end

local function save()
  local pairs_ = {}
  for name in pairs(changed) do
    pairs_[#pairs_ + 1] = name
    pairs_[#pairs_ + 1] = text(books[name])
  end
  changed = {}
  if #pairs_ > 0 then redis.call('HSET', BOOKS, unpack(pairs_)) end
end

-- How many PUBLISH commands of others this server has carried out, on any
-- channel, give or take a constant of the epoch; false where it does not tell.
-- And true if CONFIG RESETSTAT was called since the last look, so that this count
-- says nothing of what came before: it went back, or the time that such calls took
-- is another (after a reset the call itself is the first that is counted; before
-- Redis 7 it does not stand alone).
local function others()
  local info = redis.pcall('INFO', 'commandstats')
  if type(info) ~= 'string' then return false, true end
  local calls = tonumber(info:match('cmdstat_publish:calls=(%d+)') or '0')
  local reset = tonumber(info:match('cmdstat_config|resetstat:calls=%d+,usec=(%d+)') or '-1') + 1
  local again = calls < (books.calls or 0) or reset ~= (books.reset or 0)
  set('calls', calls)
  set('reset', reset)
  return calls - books.own, again
end

-- A new epoch where these books are not the ones that the last entry known was
-- written in: another server's, lost, or behind; or where others wrote up to the
-- epoch `above` in the log. Epochs are milliseconds since 1970 where the clock allows, and
-- greater than any that is known: an old id is never given to a new entry.
local function new_epoch(kept, above)
  -- Nothing is known of entries without books.
  if not kept then
    redis.call('DEL', LOG, SEGMENTS)
    set('seg_time', 0)
  end
  redis.call('HSET', BOOKS, 'run', RUN)
  set('epoch', math.max(NOW, books.epoch + 1, KNOWN_EPOCH + 1, (above or 0) + 1))
  for _, name in ipairs({'offset', 'own', 'rec_mark', 'rec_count', 'commit', 'held'}) do
    set(name, 0)
  end
  set('mark', books.mark + 1)
  -- The change of the epoch says that messages before it may be missing.
  local count = others()
  set('heard', count)
end

-- Reads the books, and takes a new epoch where that must be.
local function open()
  local values = redis.call('HMGET', BOOKS, 'run', unpack(FIELDS))
  for i, name in ipairs(FIELDS) do
    books[name] = tonumber(values[i + 1] or 0) or false
  end
  if not books.keep_age or books.keep_age == 0 then
    books.keep_bytes, books.keep_events, books.keep_age = 67108864, 1000000, 3600000
  end
  local behind = books.epoch < KNOWN_EPOCH
    or (books.epoch == KNOWN_EPOCH and books.offset < KNOWN_OFFSET)
  if values[1] ~= RUN or behind then
    new_epoch(values[1])
    save()
  end
end

local function id()
  return text(books.epoch) .. '-' .. text(books.offset)
end

-- The highest id that was ever in the log, as two numbers. Nothing where that is
-- not told; false where it is no log.
local function top()
  local info = redis.pcall('XINFO', 'STREAM', LOG)
  if info.err then
    if info.err:find('WRONGTYPE', 1, true) then return false end
    return
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local epoch, offset = info[i + 1]:match('^(%d+)-(%d+)$')
      return tonumber(epoch), tonumber(offset)
    end
  end
end

-- A new epoch after somebody else has written where the log is. What is there
-- stays, unless nothing can come after it.
local function begin_anew()
  local epoch = top()
  local kept = epoch and epoch < HIGHEST
  new_epoch(kept, kept and epoch)
  save()
end

-- Drops the oldest segments as long as those after them hold what is retained.
local function trim()
  local cut
  while true do
    local second = redis.call('LINDEX', SEGMENTS, 1)
    if not second then break end
    local entries, bytes, time = second:match('^(%d+) (%d+) (%d+)$')
    if books.entries - entries < books.keep_events and books.bytes - bytes < books.keep_bytes
      and NOW - time < books.keep_age then
      break
    end
    redis.call('LPOP', SEGMENTS)
    cut = entries
  end
  if cut then redis.call('XTRIM', LOG, 'MAXLEN', '=', text(books.entries - cut)) end
end

-- Begins a segment where the last one has its share.
local function segment()
  local entries = books.entries - books.seg_entries
  if books.seg_time > 0 and (entries == 0
    or (entries < books.keep_events / PARTS
      and books.bytes - books.seg_bytes < books.keep_bytes / PARTS
      and NOW - books.seg_time < books.keep_age / PARTS)) then
    return
  end
  -- First: a store without room for more takes nothing before something goes.
  trim()
  redis.call('RPUSH', SEGMENTS, text(books.entries) .. ' ' .. text(books.bytes) .. ' ' .. text(NOW))
  set('seg_entries', books.entries)
  set('seg_bytes', books.bytes)
  set('seg_time', NOW)
end

-- Enters the next entry into the books; it must be appended then. Returns what
-- takes it out again.
local function enter(channel, payload)
  segment()
  local before = {offset = books.offset, entries = books.entries, bytes = books.bytes}
  set('offset', books.offset + 1)
  set('entries', books.entries + 1)
  set('bytes', books.bytes + #channel + #payload + OVERHEAD)
  return function()
    for name, value in pairs(before) do set(name, value) end
  end
end

-- Appends what was entered last: `value` is a payload or the reason of a gap, as
-- `kind` says. Returns nothing, or the error; and true if that is because somebody
-- else has written there.
local function append(channel, kind, value)
  local said = redis.pcall('XADD', LOG, id(), 't', text(NOW), 'c', channel, kind, value)
  if type(said) ~= 'table' or not said.err then return end
  local foreign = false
  for _, why in ipairs({'WRONGTYPE', 'equal or smaller', 'exhausted'}) do
    foreign = foreign or said.err:find(why, 1, true) ~= nil
  end
  return said, foreign
end

local function next_mark()
  set('mark', books.mark + 1)
  set('own', books.own + 1)
  return text(books.mark)
end
