-- KEYS: sessions. ARGV: now or '', keep; for each session: expected and next revision, record.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  local expected, revision, record = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local principal = owner(record, 0)
  local found, value = look(key, HEADER + 30 + #principal, now)
  if found ~= 'live' then
    answers[i] = refusal(found, value)
  elseif value:sub(2, 9) ~= expected then
    answers[i] = { CONFLICT, redis.call('GET', key) }
  elseif value:sub(13, 22) ~= record:sub(4, 13) or value:sub(29, 36) ~= record:sub(20, 27)
    or owner(value, 9) ~= principal then
    answers[i] = { RENAMED }
  else
    local seen, deadline, limit = record:sub(36, 43), record:sub(44, 51), record:sub(52, 59)
    if earlier(seen, last_seen(value)) then seen = last_seen(value) end
    if earlier(deadline, idle(value)) then deadline = idle(value) end
    if earlier(limit, deadline) then deadline = limit end
    local new = string.char(LIVE) .. revision .. record:sub(1, 35) .. seen .. deadline .. record:sub(52)
    if principal ~= '' and earlier(absolute(value), limit) then
      -- Behind the hash tag are 30 characters.
      keep_index(key:sub(1, -31) .. '@' .. principal, limit, now, keep)
    end
    redis.call('SET', key, new, 'PX', milliseconds(number(deadline, 1), now, keep))
    answers[i] = { DONE }
  end
end
return answers
