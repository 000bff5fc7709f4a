-- KEYS: session, index if it has an owner. ARGV: now or '', keep, base, name, revision, record,
-- the most sessions or 0, whether to evict.
local now, keep, base, name = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local key, index, max = KEYS[1], KEYS[2], tonumber(ARGV[7])
if redis.call('EXISTS', key) == 1 then return { OCCUPIED } end
local evicted = {}
if index and max > 0 then
  local live, undecided = others(index, base, name, now)
  local going = excess(live, undecided, max, ARGV[8] == '1')
  if not going then return { LIMIT } end
  evicted = evict(index, base, going, now, keep)
end
file(key, index, base, name, LIVE, ARGV[5], ARGV[6], now, keep)
return { DONE, evicted }
