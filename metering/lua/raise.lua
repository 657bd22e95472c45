-- Raise counters of one key and day that are behind the ledger.
--
-- KEYS   day, touched; and roll when there are buckets
-- ARGV   member of `touched`, ttl of a hash that is made by this (s), first grant (epoch ms, 0 for none),
--        number of fields, number of buckets
--        per field: name, value seen before (-1 when it does not matter), value in the ledger
--        per bucket: number, units in the ledger
-- Reply  number of fields and buckets that were raised
--
-- One script, because calls go on meanwhile: a counter that was seen at 95, stands at 98 and is 100 in the ledger is
-- owed the 5 that were lost beside the 3 that came since, 103. A counter that reached the ledger's value is left alone,
-- so that raising again has no second effect. Buckets are raised only along with a counter: one that is lower by itself
-- has been given units back since the ledger saw it.

local function raised_buckets(first, count)
  local raised, sum, min = 0, 0, nil
  for i = 0, count - 1 do
    local name, units = ARGV[first + 2 * i], tonumber(ARGV[first + 2 * i + 1])
    if (tonumber(redis.call('HGET', KEYS[3], name)) or 0) < units then
      redis.call('HSET', KEYS[3], name, units)
      raised = raised + 1
    end
  end
  if raised == 0 then return 0 end
  local all = redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do
    local bucket = tonumber(all[i])
    if bucket then
      sum = sum + tonumber(all[i + 1])
      if not min or bucket < min then min = bucket end
    end
  end
  redis.call('HSET', KEYS[3], 'sum', sum, 'min', min)
  redis.call('HSET', KEYS[1], 'rolling', 1)
  if redis.call('TTL', KEYS[3]) < 0 then redis.call('EXPIRE', KEYS[3], ARGV[2]) end
  return raised
end

local raised = 0
local at = 6
for _ = 1, tonumber(ARGV[4]) do
  local name, seen, target = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local current = tonumber(redis.call('HGET', KEYS[1], name)) or 0
  if current < target then
    redis.call('HSET', KEYS[1], name, seen < 0 and target or current + target - seen)
    raised = raised + 1
  end
  at = at + 3
end
if ARGV[3] ~= '0' then redis.call('HSETNX', KEYS[1], 'first', ARGV[3]) end
if raised > 0 then raised = raised + raised_buckets(at, tonumber(ARGV[5])) end
if redis.call('TTL', KEYS[1]) == -1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if raised > 0 then redis.call('SADD', KEYS[2], ARGV[1]) end
return raised
