-- Appends messages that others published, each once, whoever appends.
--
-- ARGV: 4 the epoch that the coordinates belong to; then for each message its
-- coordinate (the number of the last mark before it, and how many messages came
-- since), channel, payload, what it is, and how many messages it stands for.
-- What it is: 'p', or the reason of the gap that stands for it; such a gap
-- without a channel stands for all up to its coordinate.
-- Returns how many were new. Fails with STALE when the server or the epoch is
-- another than the coordinates belong to, or a mark is not of these scripts.
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
    enter(channel, payload)
    set('rec_mark', mark)
    set('rec_count', count)
    if books.heard then set('heard', books.heard + weight) end
    if kind == 'p' then
      redis.call('XADD', LOG, id(), 't', text(NOW), 'c', channel, 'p', payload)
    else
      redis.call('XADD', LOG, id(), 't', text(NOW), 'c', channel, 'g', kind)
    end
    new = new + 1
  end
end
save()
return new
