-- Appends an event and publishes it, or says that it was published before.
--
-- KEYS: 4 where a repeat of this very command is known; 5 where the caller's own
-- key is, if it has one. ARGV: 4 the mark channel; 5 channel; 6 payload; 7 and 8
-- for how long the two keys are remembered, in ms.
-- Returns the id, and 1 if it is that of another event with the caller's key.
local MARKS, channel, payload = ARGV[4], ARGV[5], ARGV[6]
open()
for i = 4, #KEYS do
  local known = redis.call('GET', KEYS[i])
  if known then
    return {known, i - 4}
  end
end
local undo = enter(channel, payload)
-- What follows the mark is in the log: both come about in one step.
local mark = next_mark()
set('own', books.own + 1)
-- The first write: if it is refused (no memory, a replica), nothing was done.
save()
local said = redis.pcall('PUBLISH', MARKS, 'own ' .. mark)
-- One that is refused does not count.
local refused = 2
if type(said) == 'number' then
  said, refused = redis.pcall('PUBLISH', channel, payload), 1
  if type(said) ~= 'number' then
    -- Nothing follows the mark after all.
    redis.call('PUBLISH', MARKS, 'void ' .. next_mark())
  end
end
if type(said) ~= 'number' then
  undo()
  set('own', books.own - refused)
  save()
  return said
end
-- Last: what Redis refuses to publish would leave a hole among the ids.
local failed, foreign = append(channel, 'p', payload)
if foreign then
  begin_anew()
  undo = enter(channel, payload)
  save()
  failed = append(channel, 'p', payload)
end
if failed then
  undo()
  save()
  return failed
end
redis.call('SET', KEYS[4], id(), 'PX', ARGV[7])
if KEYS[5] then redis.call('SET', KEYS[5], id(), 'PX', ARGV[8]) end
return {id(), 0}
