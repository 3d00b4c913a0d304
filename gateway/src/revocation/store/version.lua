-- The version: when the store began, how many changes it had, when the last one
-- was, how many entries there were then. So that a store that was emptied, or
-- is behind what it was before, never has a version that somebody has seen.

-- Whether entries are gone that no change has removed. Asked before a change.
local function lacks_some(version, entries)
  local count = string.match(redis.call('GET', version) or '', '^%d+ %d+ %d+ (%d+)$')
  return redis.call('HLEN', entries) < (tonumber(count) or 0)
end

-- Raises the version. A store that has lost entries begins anew, so that every
-- gateway sees it and gives back what it knows.
local function raise(version, entries, lost)
  local time = redis.call('TIME')
  local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
  local began, changes = string.match(redis.call('GET', version) or '', '^(%d+) (%d+) ')
  changes = string.format('%.0f', (tonumber(changes) or 0) + 1)
  began = not lost and began or stamp
  local count = string.format('%.0f', redis.call('HLEN', entries))
  redis.call('SET', version, table.concat({ began, changes, stamp, count }, ' '))
end

