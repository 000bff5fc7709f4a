-- Both ids in one slot. KEYS: old session, new session, index of the new owner if there is one.
-- ARGV: now or '', keep, base, new name, next revision, record, the most sessions or 0, whether to
-- evict, expected revision, old name, new id.
local now, keep, base, name = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local old, new, index, max = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[7])
local found, value = look(old, HEADER, now)
if found ~= 'live' then return refusal(found, value) end
if value:sub(2, 9) ~= ARGV[9] then return { CONFLICT, redis.call('GET', old) } end
if redis.call('EXISTS', new) == 1 then return { OCCUPIED } end
local evicted = {}
if index and max > 0 then
  local live, undecided = others(index, base, value:sub(13, 22) .. ARGV[10], now)
  local going = excess(live, undecided, max, ARGV[8] == '1')
  if not going then return { LIMIT } end
  evicted = evict(index, base, going, now, keep)
end
tombstone(old, RENEWED, now, value:sub(13, 22), ARGV[11], keep)
if index then redis.call('ZREM', index, value:sub(13, 22) .. ARGV[10]) end
file(new, index, base, name, LIVE, ARGV[5], ARGV[6], now, keep)
return { DONE, evicted }
