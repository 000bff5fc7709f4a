-- What scripts need besides that end sessions or go over an index.

local function bytes(value)
  return struct.pack('>I8', value)
end

-- Whether this one of two handles comes first. Lua's own `<` goes by the server's locale on strings.
local function precedes(one, other)
  local a, b = struct.unpack('>I5I5', one)
  local c, d = struct.unpack('>I5I5', other)
  return a < c or a == c and b < d
end

local function tombstone(key, reason, at, handle, successor, keep)
  local value = string.char(ENDED, reason) .. bytes(at) .. handle .. successor
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.min(LONGEST, math.max(1, keep))))
  -- For whoever watches. Without the right to, an end is an end all the same.
  redis.pcall('PUBLISH', key:match('^[^{]*') .. 'ends', handle)
end

-- A name in an index is the handle and the rest of the key.
local function key_of(base, name) return base .. name:sub(11) end

-- What is there under one of the names of an index, as `look` says it. While a slot moves, the session may still
-- be on the other node: the one that gets the slot takes a single key for missing, and of two it refuses to say.
local function member(index, base, name, now)
  local key = key_of(base, name)
  local found, value = look(key, HEADER, now)
  if found == 'nothing' then redis.call('EXISTS', index, key) end
  return found, value
end

-- Ends what is there under one of the names of an index.
local function finish(base, name, reason, now, keep)
  local key = key_of(base, name)
  -- While a slot moves, the node that gives it away refuses to look for what is not there.
  redis.pcall('DEL', key .. '~')
  tombstone(key, reason, now, name:sub(1, 10), '', keep)
end

local function file(key, index, base, name, kind, revision, record, now, keep)
  local value = string.char(kind) .. revision .. record
  redis.call('SET', key, value, 'PX', milliseconds(number(value, 53), now, keep))
  if index then
    redis.call('ZADD', index, number(value, 29), name)
    keep_index(index, key, number(value, 61), now, keep)
    -- Of three by chance those leave that are over, so that an index does not grow with them: it has half as many of
    -- them as of others in the long run. A user that was made for an older release may not do that, and looks at the oldest.
    local some = redis.pcall('ZRANDMEMBER', index, 3)
    if some.err then some = redis.call('ZRANGE', index, 0, 1) end
    for _, other in ipairs(some) do
      local found = member(index, base, other, now)
      if found == 'nothing' or found == 'ended' or found == 'expired' then redis.call('ZREM', index, other) end
    end
  end
end

-- The names of the live sessions of an index but for one, oldest first, and how many are not decided yet. What
-- is over leaves the index.
local function others(index, base, except, now)
  local live, undecided = {}, 0
  for _, name in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if name ~= except then
      local found = member(index, base, name, now)
      if found == 'live' or found == 'newer' then
        live[#live + 1] = name
      elseif found == 'pending' then
        undecided = undecided + 1
      else
        redis.call('ZREM', index, name)
      end
    end
  end
  return live, undecided
end

-- Of these, the oldest that have to go so that one more can come; nil if none may.
local function excess(live, undecided, max, evict)
  if max == 0 then return {} end
  local too_many = #live + 1 - max
  if evict then
    local going = {}
    for i = 1, too_many do going[i] = live[i] end
    return going
  end
  if too_many + undecided > 0 then return nil end
  return {}
end

local function evict(index, base, going, now, keep)
  local handles = {}
  for i, name in ipairs(going) do
    finish(base, name, EVICTED, now, keep)
    redis.call('ZREM', index, name)
    handles[i] = name:sub(1, 10)
  end
  return handles
end
