-- Third step, by whoever comes first: what is pending lives. KEYS: new session, index of its owner
-- if there is one. ARGV: now or '', keep, base, name, the most sessions or 0, whether to evict.
local now, keep, base, name = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local key, index, max = KEYS[1], KEYS[2], tonumber(ARGV[5])
local found, value = look(key, HEADER, now)
local marker, evicted = key .. '~', {}
-- Somebody was first; and perhaps it has ended since.
if found == 'live' then
  local left = redis.pcall('GET', marker)
  if type(left) ~= 'string' or #left % 10 ~= 0 then left = '' end
  for at = 1, #left, 10 do evicted[#evicted + 1] = left:sub(at, at + 9) end
  return { DONE, evicted }
end
if found ~= 'pending' then return refusal(found, value) end
if index and max > 0 and ARGV[6] == '1' then
  evicted = evict(index, base, excess((others(index, base, name, now)), 0, max, true), now, keep)
end
redis.call('SETRANGE', key, 0, string.char(LIVE))
-- As in `finish`. Who made the renewal is told whom it evicted, also when somebody else was first.
if #evicted > 0 then
  redis.pcall('SET', marker, table.concat(evicted), 'PX', 60000)
else
  redis.pcall('DEL', marker)
end
return { DONE, evicted }
