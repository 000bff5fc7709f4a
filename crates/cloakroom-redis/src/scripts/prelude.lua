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

-- Relative, so that a key lives as long by any clock.
local function milliseconds(deadline, now, keep)
  return math.max(1, math.min(deadline - now + keep, LONGEST))
end

-- Where the length of the owner stands, and its name behind: after the stamp, if there is one.
local function owner_at(value)
  return math.floor(value:byte(27) / 2) % 2 == 1 and 93 or 85
end

-- Whether a record is of this owner, given with its length before it.
local function has_owner(value, owner)
  local place = owner_at(value)
  return value:sub(place, place + #owner - 1) == owner
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

-- An index stays as long as any of its sessions may, of which this is one.
local function keep_index(index, key, deadline, now, keep)
  local ttl = milliseconds(deadline, now, keep)
  local left = redis.call('PTTL', index)
  -- It is there if the session is, unless their slot moves and it has not come yet: then this fails the call.
  if left == -2 then redis.call('EXISTS', index, key) end
  if left < ttl then redis.call('PEXPIRE', index, ttl) end
end
