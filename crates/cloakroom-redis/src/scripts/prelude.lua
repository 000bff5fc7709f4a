-- What every script begins with. See value.rs for the form of a value.

local LIVE, PENDING, ENDED = 1, 2, 3
local RENEWED, EXPIRED, EVICTED = 3, 4, 5

-- First elements of answers, as answer.rs reads them.
local DONE, GONE, CONFLICT, OCCUPIED, LIMIT, UNDECIDED, FOLLOW, RENAMED, NEWER, FOREIGN, LATE =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

-- A header of a value is as far as its absolute deadline.
local HEADER = 67
local LONGEST = 9000000000000000

local function now_of(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function number(text, at)
  return (struct.unpack('>I8', text, at))
end

local function bytes(value)
  return struct.pack('>I8', value)
end

-- Whether this one of two times, or of two handles, comes first. Lua's own `<` goes by the server's
-- locale on strings.
local function earlier(one, other) return number(one, 1) < number(other, 1) end

local function precedes(one, other)
  local a, b = struct.unpack('>I5I5', one)
  local c, d = struct.unpack('>I5I5', other)
  return a < c or a == c and b < d
end

local function last_seen(value) return value:sub(45, 52) end
local function idle(value) return value:sub(53, 60) end
local function absolute(value) return value:sub(61, 68) end

-- Relative, so that a key lives as long by any clock.
local function milliseconds(deadline, now, keep)
  return string.format('%.0f', math.max(1, math.min(deadline - now + keep, LONGEST)))
end

-- The owner that a record names; it begins behind so many bytes of the text.
local function owner(text, behind)
  local flags = text:byte(behind + 18)
  local at = behind + 76
  if flags and math.floor(flags / 2) % 2 == 1 then at = at + 8 end
  if #text < at + 1 then return nil end
  local length = struct.unpack('>I2', text, at)
  return text:sub(at + 2, at + 1 + length)
end

-- What is there: 'live', 'expired', 'pending', 'ended', 'newer', 'foreign' (no string of ours), or
-- 'nothing', which damaged bytes are as well; and the first bytes of the value.
local function look(key, upto, now)
  local value = redis.pcall('GETRANGE', key, 0, upto)
  if type(value) ~= 'string' then
    if value.err:find('WRONGTYPE', 1, true) then return 'foreign', '' end
    -- Whatever else went wrong must not pass for a session that is not there: it fails the call.
    redis.call('GETRANGE', key, 0, upto)
  end
  local kind = value:byte(1)
  if kind == ENDED and #value >= 20 then return 'ended', value end
  if kind ~= LIVE and kind ~= PENDING then return 'nothing', value end
  local format = value:byte(10)
  if format and format > 1 then return 'newer', value end
  if format ~= 1 or #value <= HEADER then return 'nothing', value end
  if kind == PENDING then return 'pending', value end
  if now >= math.min(number(value, 53), number(value, 61)) then return 'expired', value end
  return 'live', value
end

-- The answer of a verb that needs a live session and did not find one.
local function refusal(found, value)
  if found == 'expired' then return { GONE, EXPIRED } end
  if found == 'ended' then return { GONE, value:byte(2) } end
  if found == 'newer' then return { NEWER, value:byte(10) } end
  if found == 'foreign' then return { FOREIGN } end
  if found == 'pending' then return { UNDECIDED } end
  return { GONE, 0 }
end

local function tombstone(key, reason, at, handle, successor, keep)
  local value = string.char(ENDED, reason) .. bytes(at) .. handle .. successor
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.max(1, keep)))
end

-- Ends what is there under one of the names of an index.
local function finish(key, reason, now, keep, value)
  redis.call('DEL', key .. '~')
  tombstone(key, reason, now, value:sub(13, 22), '', keep)
end

-- A name in an index is the handle and the rest of the key.
local function key_of(base, name) return base .. name:sub(11) end

-- An index stays as long as any of its sessions may.
local function keep_index(index, deadline, now, keep)
  local ttl = milliseconds(number(deadline, 1), now, keep)
  if redis.call('PTTL', index) < tonumber(ttl) then redis.call('PEXPIRE', index, ttl) end
end

local function file(key, index, base, name, kind, revision, record, now, keep)
  local value = string.char(kind) .. revision .. record
  redis.call('SET', key, value, 'PX', milliseconds(number(idle(value), 1), now, keep))
  if index then
    redis.call('ZADD', index, number(value, 29), name)
    keep_index(index, absolute(value), now, keep)
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
