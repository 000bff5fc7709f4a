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

-- Ends what is there under one of the names of an index.
local function finish(key, reason, now, keep, value)
  redis.call('DEL', key .. '~')
  tombstone(key, reason, now, value:sub(13, 22), '', keep)
end

-- A name in an index is the handle and the rest of the key.
local function key_of(base, name) return base .. name:sub(11) end

local function file(key, index, base, name, kind, revision, record, now, keep)
  local value = string.char(kind) .. revision .. record
  redis.call('SET', key, value, 'PX', milliseconds(number(value, 53), now, keep))
  if index then
    redis.call('ZADD', index, number(value, 29), name)
    keep_index(index, number(value, 61), now, keep)
    -- Two leave for one that comes, so that an index does not grow with sessions that are over.
    for _, oldest in ipairs(redis.call('ZRANGE', index, 0, 1)) do
      local found = look(base .. oldest:sub(11), HEADER, now)
      if found == 'nothing' or found == 'ended' or found == 'expired' then redis.call('ZREM', index, oldest) end
    end
  end
end

-- The live sessions of an index but for one, oldest first, and how many are not decided yet. What
-- is over leaves the index.
local function others(index, base, except, now)
  local live, undecided = {}, 0
  for _, name in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if name ~= except then
      local found, value = look(key_of(base, name), HEADER, now)
      if found == 'live' or found == 'newer' then
        live[#live + 1] = { name, value }
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
  for i, session in ipairs(going) do
    local name, value = session[1], session[2]
    finish(key_of(base, name), EVICTED, now, keep, value)
    redis.call('ZREM', index, name)
    handles[i] = name:sub(1, 10)
  end
  return handles
end
