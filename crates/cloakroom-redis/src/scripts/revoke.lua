-- KEYS: index. ARGV: now or '', keep, base, handle to end alone or '', handle to spare or '', whether
-- what is undecided ends as well. Returns how many ended, or the names of what has to be decided.
local now, keep, base = now_of(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local only, spared, all = ARGV[4], ARGV[5], ARGV[6] == '1'
local undecided, going = {}, {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local handle = name:sub(1, 10)
  if (only == '' or handle == only) and handle ~= spared then
    local found, value = look(key_of(base, name), HEADER, now)
    if found == 'pending' and not all then
      undecided[#undecided + 1] = name
    elseif found == 'live' or found == 'pending' then
      going[#going + 1] = { name, value, found == 'live' }
    elseif found == 'newer' then
      going[#going + 1] = { name, string.rep('\0', 12) .. handle, true }
    elseif found ~= 'foreign' then
      redis.call('ZREM', KEYS[1], name)
    end
  end
end
if #undecided > 0 then return { UNDECIDED, undecided } end
local ended = 0
for _, session in ipairs(going) do
  finish(key_of(base, session[1]), 2, now, keep, session[2])
  redis.call('ZREM', KEYS[1], session[1])
  if session[3] then ended = ended + 1 end
end
-- For `WAIT`, as in delete.lua: what ended before may not have been acknowledged.
if ended == 0 then redis.call('SET', KEYS[1] .. '~', '', 'PX', 1) end
return { DONE, ended }
