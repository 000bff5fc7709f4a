-- KEYS: index. ARGV: now or '', keep, base, handle to end alone or '', handle to spare or '', whether
-- what is undecided ends as well. Returns how many ended, or the names of what has to be decided.
local now, keep, base = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local only, spared, all = ARGV[4], ARGV[5], ARGV[6] == '1'
local undecided, going = {}, {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local handle = name:sub(1, 10)
  if (only == '' or handle == only) and handle ~= spared then
    local found = member(KEYS[1], base, name, now)
    if found == 'pending' and not all then
      undecided[#undecided + 1] = name
    elseif found == 'live' or found == 'newer' or found == 'pending' then
      going[#going + 1] = { name, found ~= 'pending' }
    elseif found ~= 'foreign' then
      redis.call('ZREM', KEYS[1], name)
    end
  end
end
if #undecided > 0 then return { UNDECIDED, undecided } end
local ended = 0
for _, session in ipairs(going) do
  finish(base, session[1], 2, now, keep)
  redis.call('ZREM', KEYS[1], session[1])
  if session[2] then ended = ended + 1 end
end
-- For `WAIT`, as in delete.lua: what ended before may not have been acknowledged. Where there is something, to that: while
-- its slot moves, the node that gives it away takes nothing new.
if #going == 0 then
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    redis.call('PEXPIRE', KEYS[1], left)
  else
    redis.call('SET', base .. '~', '', 'PX', 1)
  end
end
return { DONE, ended }
