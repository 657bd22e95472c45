-- Take the units of one batch of calls, and grant at most what each key has left.
--
-- KEYS   per entry (one key on one day): record, day, touched; and roll when the entry says so
-- ARGV   writer, batch (grows by one per batch of the writer), ttl of a day's hash (s)
--        per entry: member of `touched`, now (epoch ms), number of groups, 1 when `roll` is among KEYS else 0
--        per group: revision, limit (units, -1 for none), field (`method|class`), calls, cost of one (units),
--                   how it is paid (0 by the call, 1 by nobody, 2 by what its answer holds), bucket (number of the
--                   ten minutes, -1 for the day's window)
-- Reply  per entry, in order:
--        an integer >= 0: all calls were granted, and so many units are in use now
--        -1: there is no record, nothing was counted   -2: a later batch was applied already   -3: not a hash
--        else {units in use, oldest bucket with units or -1, the record when a group is stale else "",
--              calls granted of each group, -1 for a group whose revision is not the record's}
--
-- One script, because what is left, what is granted, what was counted and the batch number must move together: the
-- number makes a batch that is sent again answer what it answered at first, without a second effect.

local MISSING, SUPERSEDED, BROKEN, STALE = -1, -2, -3, -1
local PER_ENTRY, PER_GROUP = 4, 7
local COUNTED_BUCKETS = 144
local ROLL_TTL_S = 90000

local mark = 'bt:' .. ARGV[1]
local batch = tonumber(ARGV[2])
local ttl_s = ARGV[3]
local names_of = {} -- the fields of calls and of units, by `method|class`

-- The rolling window of one key: buckets that left it are dropped when the oldest one does.
local function drop_buckets_before(roll, oldest)
  local all = redis.call('HGETALL', roll)
  local sum, min, gone = 0, nil, {}
  for i = 1, #all, 2 do
    local bucket = tonumber(all[i])
    local late = not bucket and tonumber(string.match(all[i], '^late:(%d+)$'))
    if (bucket or late or oldest) < oldest then
      gone[#gone + 1] = all[i]
    elseif bucket then
      sum = sum + tonumber(all[i + 1])
      if not min or bucket < min then min = bucket end
    end
  end
  if #gone > 0 then redis.call('HDEL', roll, unpack(gone)) end
  return sum, min
end

local function add_to_bucket(roll, bucket, units)
  if redis.call('HINCRBY', roll, bucket, units) == units then redis.call('EXPIRE', roll, ROLL_TTL_S) end
end

-- What the batch answered when it was applied; what is in use is told as of now.
local function answer_again(last, in_use, oldest, record)
  local list = string.match(last, ':(.*)')
  if not list then return in_use end
  local reply = {in_use, oldest, ''}
  for granted in string.gmatch(list, '[^,]+') do
    reply[#reply + 1] = tonumber(granted)
    if reply[#reply] == STALE then reply[3] = redis.call('HGET', record, 'data') or '' end
  end
  return reply
end

-- Nearly all entries are paid calls of one kind that the day's limit has room for: what `take` does with these, at half
-- its price. Nothing is written, and nil returned, for whatever else it turns out to be.
local function take_plain(revision, day, touched, entry)
  local at = entry + PER_ENTRY
  if ARGV[entry + 2] ~= '1' or ARGV[at] ~= revision or ARGV[at + 5] ~= '0' then return nil end
  local names = names_of[ARGV[at + 2]]
  if not names then
    names = {'c:' .. ARGV[at + 2], 't:' .. ARGV[at + 2]}
    names_of[ARGV[at + 2]] = names
  end
  local read = redis.pcall('HMGET', day, 'used', 'back', 'first', mark, names[1], names[2])
  if read.err or read[4] and (tonumber(read[4]) or batch) >= batch then return nil end

  local used, calls, limit = tonumber(read[1]) or 0, tonumber(ARGV[at + 3]), tonumber(ARGV[at + 1])
  local units = calls * tonumber(ARGV[at + 4])
  local in_use = used - (tonumber(read[2]) or 0) + units
  if limit >= 0 and in_use > limit then return nil end

  calls, units, used = calls + (tonumber(read[5]) or 0), units + (tonumber(read[6]) or 0), used + units
  if read[3] then
    redis.call('HSET', day, 'used', used, mark, ARGV[2], names[1], calls, names[2], units)
  else
    redis.call('HSET', day, 'used', used, mark, ARGV[2], names[1], calls, names[2], units, 'first', ARGV[entry + 1])
  end
  if not read[4] then redis.call('EXPIRE', day, ttl_s) end -- it may have been restored, to live for a shorter time
  redis.call('SADD', touched, ARGV[entry])
  return in_use
end

local function take(record, day, touched, roll, entry)
  local revision = redis.pcall('HGET', record, 'rev')
  if not revision then return MISSING end
  if type(revision) == 'table' then return BROKEN end
  local plain = not roll and take_plain(revision, day, touched, entry)
  if plain then return plain end

  local groups, first_group = tonumber(ARGV[entry + 2]), entry + PER_ENTRY
  local names, seen = {'used', 'back', 'first', mark}, {}
  local function want(name)
    if not seen[name] then
      names[#names + 1] = name
      seen[name] = #names
    end
  end
  for g = 0, groups - 1 do
    local at = first_group + g * PER_GROUP
    want('c:' .. ARGV[at + 2])
    want('t:' .. ARGV[at + 2])
    if ARGV[at + 5] == '1' then
      want('w:' .. ARGV[at + 2])
      want('v:free_method')
    end
  end
  local read = redis.pcall('HMGET', day, unpack(names))
  if read.err then return BROKEN end
  local used, back = tonumber(read[1]) or 0, tonumber(read[2]) or 0

  local sum, min
  if roll then
    local state = redis.pcall('HMGET', roll, 'sum', 'min')
    if state.err then return BROKEN end
    sum, min = tonumber(state[1]), tonumber(state[2])
  end

  local last = read[4]
  if last then
    local number = tonumber(string.match(last, '^%d+'))
    if number > batch then return SUPERSEDED end
    if number == batch then
      return answer_again(last, roll and (sum or 0) or used - back, min or -1, record)
    end
  end

  local moved, granted_of = {}, {}
  local granted_any, denied, stale, all_granted = false, 0, false, true
  local function add(name, number)
    moved[name] = (moved[name] or tonumber(read[seen[name]]) or 0) + number
  end
  for g = 0, groups - 1 do
    local at = first_group + g * PER_GROUP
    if ARGV[at] ~= revision then
      granted_of[g + 1], stale, all_granted = STALE, true, false
    else
      local limit, field = tonumber(ARGV[at + 1]), ARGV[at + 2]
      local calls, cost, bucket = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 6])
      local rolling = bucket >= 0
      if rolling and not sum then
        -- A key that was counted by the day until now: its day counts as if it had just been used.
        sum = math.max(0, used - back)
        if sum > 0 then
          add_to_bucket(roll, bucket, sum)
          min = bucket
        end
      end
      if rolling and min and min < bucket - COUNTED_BUCKETS then
        sum, min = drop_buckets_before(roll, bucket - COUNTED_BUCKETS)
      end
      local granted = calls
      if limit >= 0 then
        local left = limit - (rolling and sum or used - back)
        -- What costs nothing yet and something once it is answered is not for who has nothing left.
        if left < 0 or left == 0 and ARGV[at + 5] == '2' then
          granted = 0
        elseif calls * cost > left then
          granted = math.floor(left / cost)
        end
      end
      if granted > 0 then
        local units = granted * cost
        granted_any = true
        used = used + units
        add('c:' .. field, granted)
        add('t:' .. field, units)
        if ARGV[at + 5] == '1' then
          add('w:' .. field, units)
          add('v:free_method', units)
        end
        if rolling and units > 0 then
          add_to_bucket(roll, bucket, units)
          sum = sum + units
          if not min or bucket < min then min = bucket end
        end
      end
      if granted < calls then
        denied, all_granted = denied + calls - granted, false
      end
      granted_of[g + 1] = granted
    end
  end

  -- Grants are needed again only when they are not simply all; a short value keeps the hash small.
  local result = ARGV[2]
  if roll or not all_granted then result = result .. ':' .. table.concat(granted_of, ',') end
  local write = {'used', used, mark, result}
  for name, number in pairs(moved) do
    write[#write + 1] = name
    write[#write + 1] = number
  end
  if granted_any and not read[3] then
    write[#write + 1] = 'first'
    write[#write + 1] = ARGV[entry + 1]
  end
  redis.call('HSET', day, unpack(write))
  if denied > 0 then redis.call('HINCRBY', day, 'd:quota_exceeded', denied) end
  if not last then redis.call('EXPIRE', day, ttl_s) end
  if sum then
    redis.call('HSET', day, 'rolling', 1)
    redis.call('HSET', roll, 'sum', sum)
    if min then redis.call('HSET', roll, 'min', min) else redis.call('HDEL', roll, 'min') end
  end
  redis.call('SADD', touched, ARGV[entry])

  local in_use = sum or used - back
  if all_granted and not roll then return in_use end
  return {in_use, min or -1, stale and redis.call('HGET', record, 'data') or '', unpack(granted_of)}
end

local replies = {}
local entry, key = 4, 1
while ARGV[entry] do
  local rolling = ARGV[entry + 3] == '1'
  replies[#replies + 1] = take(KEYS[key], KEYS[key + 1], KEYS[key + 2], rolling and KEYS[key + 3], entry)
  entry = entry + PER_ENTRY + tonumber(ARGV[entry + 2]) * PER_GROUP
  key = key + (rolling and 4 or 3)
end
return replies
