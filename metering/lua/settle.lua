-- Add what became known after the take: units that are not charged, further units, and calls that were denied.
--
-- KEYS   per entry (one key on one day): record, day, touched; and roll when the entry has buckets
-- ARGV   writer, batch (grows by one per batch of the writer), ttl of a day's hash (s)
--        per entry: member of `touched`, number of fields, number of buckets
--        per field: name, units or calls to add; for the name `first` a time (epoch ms), of which the earliest stands
--        per bucket: number, units to add (negative: to give back)
-- Reply  per entry, in order: 1 applied, now or before; 0 there is no record, nothing was written; -3 not a hash
--
-- One script, because the sums and the batch number must move together: the number makes a batch that is sent again
-- have no second effect. Without a record the counters are not whole, and the writer has to come again.

local MISSING, APPLIED, BROKEN = 0, 1, -3
local PER_ENTRY = 3
local COUNTED_BUCKETS = 144
local ROLL_TTL_S = 90000

local mark = 'bs:' .. ARGV[1]
local batch = tonumber(ARGV[2])

local function oldest_and_newest_bucket(roll)
  local min, max
  for _, name in ipairs(redis.call('HKEYS', roll)) do
    local bucket = tonumber(name)
    if bucket and (not min or bucket < min) then min = bucket end
    if bucket and (not max or bucket > max) then max = bucket end
  end
  return min, max
end

-- A call that was let through uncounted may be waived before it is added: then its units do not come later.
local function keep_for_later(roll, name, units)
  local _, newest = oldest_and_newest_bucket(roll)
  if newest and tonumber(name) < newest - COUNTED_BUCKETS then return end -- they have been there, and left the window
  redis.call('HINCRBY', roll, 'late:' .. name, units)
  if redis.call('TTL', roll) < 0 then redis.call('EXPIRE', roll, ROLL_TTL_S) end
end

-- Units are given back only as far as their bucket holds them.
local function give_back(roll, name, units)
  local there = tonumber(redis.call('HGET', roll, name)) or 0
  local given = math.min(there, units)
  if given < units then keep_for_later(roll, name, units - given) end
  if given == 0 then return end
  redis.call('HINCRBY', roll, 'sum', -given)
  if given < there then
    redis.call('HINCRBY', roll, name, -given)
    return
  end
  redis.call('HDEL', roll, name)
  if redis.call('HGET', roll, 'min') == name then
    local min = oldest_and_newest_bucket(roll)
    if min then redis.call('HSET', roll, 'min', min) else redis.call('HDEL', roll, 'min') end
  end
end

local function add(roll, name, units)
  local late = tonumber(redis.call('HGET', roll, 'late:' .. name)) or 0
  if late > 0 then
    local given = math.min(late, units)
    if given == late then
      redis.call('HDEL', roll, 'late:' .. name)
    else
      redis.call('HINCRBY', roll, 'late:' .. name, -given)
    end
    units = units - given
    if units == 0 then return end
  end
  if redis.call('HINCRBY', roll, name, units) == units then redis.call('EXPIRE', roll, ROLL_TTL_S) end
  redis.call('HINCRBY', roll, 'sum', units)
  local min = tonumber(redis.call('HGET', roll, 'min'))
  if not min or tonumber(name) < min then redis.call('HSET', roll, 'min', name) end
end

local function settle(record, day, touched, roll, entry)
  local found = redis.pcall('HEXISTS', record, 'rev')
  if found == 0 then return MISSING end
  if type(found) == 'table' then return BROKEN end
  local last = redis.pcall('HGET', day, mark)
  if type(last) == 'table' then return BROKEN end
  if last and tonumber(last) >= batch then return APPLIED end

  local fields, buckets = tonumber(ARGV[entry + 1]), tonumber(ARGV[entry + 2])
  local at = entry + PER_ENTRY
  for _ = 1, fields do
    if ARGV[at] == 'first' then
      local first = tonumber(redis.call('HGET', day, 'first'))
      if not first or tonumber(ARGV[at + 1]) < first then redis.call('HSET', day, 'first', ARGV[at + 1]) end
    else
      redis.call('HINCRBY', day, ARGV[at], ARGV[at + 1])
    end
    at = at + 2
  end
  if buckets > 0 then redis.call('HSET', day, 'rolling', 1) end
  for _ = 1, buckets do
    local units = tonumber(ARGV[at + 1])
    if units < 0 then
      give_back(roll, ARGV[at], -units)
    elseif units > 0 then -- what was added and given back in one batch must not make a bucket anew
      add(roll, ARGV[at], units)
    end
    at = at + 2
  end
  redis.call('HSET', day, mark, ARGV[2])
  if not last then redis.call('EXPIRE', day, ARGV[3]) end
  redis.call('SADD', touched, ARGV[entry])
  return APPLIED
end

local replies = {}
local entry, key = 4, 1
while ARGV[entry] do
  local rolling = ARGV[entry + 2] ~= '0'
  replies[#replies + 1] = settle(KEYS[key], KEYS[key + 1], KEYS[key + 2], rolling and KEYS[key + 3], entry)
  entry = entry + PER_ENTRY + 2 * (tonumber(ARGV[entry + 1]) + tonumber(ARGV[entry + 2]))
  key = key + (rolling and 4 or 3)
end
return replies
