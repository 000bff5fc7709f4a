-- First step of a renewal across slots: files the new record, not live yet.
-- KEYS: new session, index of the new owner if there is one. ARGV: as create.lua, and the old id.
-- Returns when it was done.
local now, keep, base, name = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local key, index, max = KEYS[1], KEYS[2], tonumber(ARGV[7])
if redis.call('EXISTS', key) == 1 then return { OCCUPIED } end
if index and max > 0 then
  local live, undecided = others(index, base, name, now)
  if not excess(live, undecided, max, ARGV[8] == '1') then return { LIMIT } end
end
file(key, index, base, name, PENDING, ARGV[5], ARGV[6], now, keep)
-- The limit is kept at the third step.
local marker = ARGV[9] .. bytes(now) .. bytes(max) .. ARGV[8]
redis.call('SET', key .. '~', marker, 'PX', redis.call('PTTL', key))
return { DONE, string.format('%.0f', now) }
