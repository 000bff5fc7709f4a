-- KEYS: sessions. ARGV: now or '', keep; for each session: how its value has to begin (live, the
-- expected revision, format 1), and the value to put there.
local now, keep = now_of(ARGV[1]), tonumber(ARGV[2])
local get, set, unpack = redis.pcall, redis.call, struct.unpack
local answers, done = {}, { DONE }
for i, key in ipairs(KEYS) do
  local start, new = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local place = owner_at(new)
  local name = new:sub(place, place + 1 + unpack('>I2', new, place))
  local head = get('GETRANGE', key, 0, place + #name + 8)
  local matches = type(head) == 'string' and head:sub(1, 10) == start and #head > HEADER
  local seen, due, limit, new_seen, new_due, new_limit
  if matches then
    seen, due, limit = unpack('>I8I8I8', head, 45)
    matches = now < due and now < limit
  end
  if not matches then
    local found, value = look(key, HEADER, now)
    answers[i] = found == 'live' and { CONFLICT, set('GET', key) } or refusal(found, value)
  elseif head:sub(13, 22) ~= new:sub(13, 22) or head:sub(29, 36) ~= new:sub(29, 36)
    or not has_owner(head, name) then
    answers[i] = { RENAMED }
  else
    new_seen, new_due, new_limit = unpack('>I8I8I8', new, 45)
    if new_limit > limit and #name > 2 then
      -- Behind the hash tag are 30 characters.
      keep_index(key:sub(1, -31) .. '@' .. name:sub(3), key, new_limit, now, keep)
    end
    if new_seen < seen or new_due < due or new_due > new_limit then
      local seen_kept = new_seen < seen and head or new
      local due_kept = new_due < due and head:sub(53, 60) or new:sub(53, 60)
      new_due = math.max(new_due, due)
      if new_due > new_limit then due_kept, new_due = new:sub(61, 68), new_limit end
      new = new:sub(1, 44) .. seen_kept:sub(45, 52) .. due_kept .. new:sub(61)
    end
    set('SET', key, new, 'PX', milliseconds(new_due, now, keep))
    answers[i] = done
  end
end
return answers
