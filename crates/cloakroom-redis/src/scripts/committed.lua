-- Whether the second step was done, for whoever takes the third instead of the one who did it.
-- KEYS: old session. ARGV: new id. Returns 1 or 0.
local value = redis.call('GETRANGE', KEYS[1], 0, 45)
if value:byte(1) ~= ENDED or value:byte(2) ~= RENEWED or value:sub(21, 46) ~= ARGV[1] then return { DONE, 0 } end
-- For `WAIT`, as in delete.lua: where a failover takes the second step back, the third must not have been taken.
redis.call('SETRANGE', KEYS[1], 1, value:sub(2, 2))
return { DONE, 1 }
