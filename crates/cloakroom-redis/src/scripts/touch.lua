-- KEYS: sessions. ARGV: now or '', keep; for each session: last seen and idle deadline, 16 bytes.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local answers, done = {}, { DONE }
for i, key in ipairs(KEYS) do
  local new = ARGV[i + 2]
  local found, value = look(key, HEADER, now)
  if found ~= 'live' then
    answers[i] = refusal(found, value)
  else
    local seen, due, limit = struct.unpack('>I8I8I8', value, 45)
    local new_seen, new_due = struct.unpack('>I8I8', new)
    if new_seen < seen then new = value:sub(45, 52) .. new:sub(9) end
    if new_due > limit then new, new_due = new:sub(1, 8) .. value:sub(61, 68), limit end
    if new_due < due then new, new_due = new:sub(1, 8) .. value:sub(53, 60), due end
    redis.call('SETRANGE', key, 44, new)
    redis.call('PEXPIRE', key, milliseconds(new_due, now, keep))
    answers[i] = done
  end
end
return answers
