-- KEYS: index. ARGV: now or '', base, creation time and handle to start after or '', how many or 0 for
-- only what is undecided, whether to pass over that. Returns the records without values, or the names of
-- what has to be decided.
local now, base, after, handle = now_of(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local wanted, skip = tonumber(ARGV[5]), ARGV[6] == '1'
local records, undecided = {}, {}
local from = after == '' and '-inf' or after
local entries = redis.call('ZRANGEBYSCORE', KEYS[1], from, '+inf', 'WITHSCORES')
for i = 1, #entries, 2 do
  local name = entries[i]
  if after == '' or tonumber(entries[i + 1]) > tonumber(after) or precedes(handle, name) then
    local found, value = member(KEYS[1], base, name, now)
    if found == 'live' and wanted > 0 then
      local head = struct.unpack('>I2', value, 11)
      records[#records + 1] = redis.call('GETRANGE', key_of(base, name), 0, 11 + head)
    elseif found == 'newer' and wanted > 0 then
      return { NEWER, value:byte(10) }
    elseif found == 'pending' and not skip then
      undecided[#undecided + 1] = name
    end
    if wanted > 0 and #records >= wanted then break end
  end
end
if #undecided > 0 then return { UNDECIDED, undecided } end
return { DONE, records }
