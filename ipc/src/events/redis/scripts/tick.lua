-- Takes, keeps or gives back the lease of the recorder; says where the records
-- stand.
--
-- KEYS: 4 the lease. ARGV: 4 the mark channel; 5 the caller's name, which begins
-- with what it is; 6 how long the lease holds in ms; 7 what the caller is to the
-- lease: 'looks', and takes nothing; 'holds' it, and goes on; 'vouches' that it
-- can append all that is not recorded; 'lacks' something; 'leaves'; 8 the epoch
-- that the next two belong to, '' if the caller can't tell them: 9 the mark
-- before which it has recorded everything, and 10 how many messages of others
-- that makes; 11 to 13 the bytes, entries and ms that are retained, from a gateway.
-- Returns epoch, offset, 1 if the caller holds the lease, commit, rec_mark,
-- rec_count, and heard, '' if it is not known. All as they were before.
--
-- Whoever lacks something takes the lease only once nobody has taken it for as
-- long as it holds, and gives up one that its last connection had: others that
-- vouch ask every second.
local MARKS, NAME, LEASE, CALLER = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
open()
local holder = redis.call('GET', KEYS[4])
local mine = holder == NAME
-- A service only records as long as no gateway is there.
local yields = holder and holder:sub(1, 8) == 'service:' and NAME:sub(1, 8) == 'gateway:'
local holds, frees = false, false
if CALLER == 'holds' or CALLER == 'vouches' then
  holds = mine or not holder or yields
elseif CALLER == 'lacks' then
  holds = not holder and NOW - (books.held or 0) >= LEASE
  frees = mine
elseif CALLER == 'leaves' then
  frees = mine
end
local count, reset
if holds or frees or CALLER == 'looks' then
  count, reset = others()
  if reset then set('heard', false) end
end
local reply = {text(books.epoch), text(books.offset), holds and 1 or 0, text(books.commit),
  text(books.rec_mark), text(books.rec_count), text(books.heard)}
if mine and tonumber(ARGV[8]) == books.epoch then
  set('commit', math.max(books.commit, math.min(books.mark, tonumber(ARGV[9]))))
  -- The holder does not know of a reset yet.
  set('heard', not reset and tonumber(ARGV[10]) or false)
end
if holds and ARGV[11] then
  set('keep_bytes', tonumber(ARGV[11]))
  set('keep_events', tonumber(ARGV[12]))
  set('keep_age', tonumber(ARGV[13]))
end
if holds then
  trim()
  segment()
  set('held', NOW + LEASE)
  redis.call('SET', KEYS[4], NAME, 'PX', LEASE)
elseif frees then
  set('held', NOW)
  redis.call('DEL', KEYS[4])
end
if count ~= nil then
  local word, mark = frees and 'free ' or 'tick ', next_mark()
  save()
  redis.call('PUBLISH', MARKS, word .. mark .. ' ' .. text(count))
end
return reply
