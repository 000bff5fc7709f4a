-- KEYS: sessions. ARGV: now or '', keep; for each session: last seen, idle deadline.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  local seen, deadline = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local found, value = look(key, HEADER, now)
  if found ~= 'live' then
    answers[i] = refusal(found, value)
  else
    if earlier(seen, last_seen(value)) then seen = last_seen(value) end
    if earlier(absolute(value), deadline) then deadline = absolute(value) end
    if earlier(deadline, idle(value)) then deadline = idle(value) end
    redis.call('SETRANGE', key, 44, seen .. deadline)
    redis.call('PEXPIRE', key, milliseconds(number(deadline, 1), now, keep))
    answers[i] = { DONE }
  end
end
return answers
