-- Second step, and the point of no return: the old id dies. KEYS: old session. ARGV: now or '', keep,
-- expected revision, new id, the time after which it is too late, the idle deadline of the new record.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local found, value = look(KEYS[1], HEADER, now)
if found ~= 'live' then return refusal(found, value) end
if value:sub(2, 9) ~= ARGV[3] then return { CONFLICT, redis.call('GET', KEYS[1]) } end
if now > tonumber(ARGV[5]) then return { LATE } end
-- As long as the new record may wait for the third step: without this it would be taken back.
tombstone(KEYS[1], RENEWED, now, value:sub(13, 22), ARGV[4], milliseconds(tonumber(ARGV[6]), now, keep))
return { DONE }
