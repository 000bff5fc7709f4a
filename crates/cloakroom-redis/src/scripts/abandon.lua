-- Takes back a first step whose second did not and will not happen. KEYS: new session, index of its
-- owner if there is one. ARGV: name.
local found = look(KEYS[1], HEADER, 0)
if found == 'pending' then
  redis.call('DEL', KEYS[1], KEYS[1] .. '~')
  if KEYS[2] then redis.call('ZREM', KEYS[2], ARGV[1]) end
end
return { DONE }
