-- Third step, by whoever comes first: what is pending lives. KEYS: new session, index of its owner
-- if there is one. ARGV: now or '', keep, base, name, the most sessions or 0, whether to evict.
local now, keep, base, name = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local key, index, max = KEYS[1], KEYS[2], tonumber(ARGV[5])
local found, value = look(key, HEADER, now)
-- Somebody was first; and perhaps it has ended since.
if found == 'live' then return { DONE, {} } end
if found ~= 'pending' then return refusal(found, value) end
local evicted = {}
if index and max > 0 and ARGV[6] == '1' then
  evicted = evict(index, base, excess((others(index, base, name, now)), 0, max, true), now, keep)
end
redis.call('SETRANGE', key, 0, string.char(LIVE))
-- As in `finish`.
redis.pcall('DEL', key .. '~')
return { DONE, evicted }
