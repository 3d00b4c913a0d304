-- Appends messages that others published, each once, whoever appends.
--
-- ARGV: 4 the epoch that the coordinates belong to; then for each message its
-- coordinate (the number of the last mark before it, and how many messages came
-- since), channel, payload, what it is, and how many messages it stands for.
-- What it is: 'p', or the reason of the gap that stands for it; such a gap
-- without a channel stands for all up to its coordinate.
-- Returns how many were new. Fails with STALE when the server or the epoch is
-- another than the coordinates belong to, a mark is not of these scripts, or
-- somebody else has written into the log.
open()
if books.epoch ~= tonumber(ARGV[4]) then
  return redis.error_reply('STALE the coordinates are of another life of the store')
end
-- Before anything is written.
for i = 5, #ARGV, 6 do
  if tonumber(ARGV[i]) > books.mark then
    return redis.error_reply('STALE a mark was heard that no script has made')
  end
end
local new = 0
for i = 5, #ARGV, 6 do
  local mark, count, channel, payload, kind, weight = tonumber(ARGV[i]), tonumber(ARGV[i + 1]),
    ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 5])
  if mark > books.rec_mark or (mark == books.rec_mark and count > books.rec_count) then
    local undo = enter(channel, payload)
    local value = kind == 'p' and payload or kind
    local failed, foreign = append(channel, kind == 'p' and 'p' or 'g', value)
    if foreign then
      begin_anew()
      return redis.error_reply('STALE somebody else has written into the log')
    elseif failed then
      undo()
      save()
      return failed
    end
    set('rec_mark', mark)
    set('rec_count', count)
    if books.heard then set('heard', books.heard + weight) end
    new = new + 1
  end
end
save()
return new
