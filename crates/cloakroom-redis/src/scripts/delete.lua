-- KEYS: session. ARGV: now or '', keep, reason. Returns whether a live session ended, or the id that
-- it was renewed to.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local found, value = look(KEYS[1], HEADER, now)
if found == 'live' then
  tombstone(KEYS[1], tonumber(ARGV[3]), now, value:sub(13, 22), '', keep)
  return { DONE, 1 }
elseif found == 'newer' then
  -- Its handle is where this release does not look for it.
  tombstone(KEYS[1], tonumber(ARGV[3]), now, string.rep('\0', 10), '', keep)
  return { DONE, 1 }
elseif found == 'ended' then
  -- Its end may have come from a call that no replica acknowledged. `WAIT` may look only at what its own
  -- connection wrote, so that a write is needed for it to wait for.
  redis.call('SETRANGE', KEYS[1], 1, value:sub(2, 2))
  if value:byte(2) == RENEWED and #value >= 46 then return { FOLLOW, value:sub(21, 46) } end
elseif found == 'pending' then
  return { UNDECIDED }
elseif found == 'foreign' then
  return { FOREIGN }
end
return { DONE, 0 }
