-- Decides and counts one call: the script behind the peers that ask Redis once for every call.
--
-- KEYS[1]  hash of the key's record: state, limit (units a day)
-- KEYS[2]  hash of the key's day: used, c:<method>
-- ARGV[1]  method
-- Reply    "ok", "quota", "unknown", or the state that is not "active"
--
-- One script, because the limit must hold between the look at `used` and its increment.

local record = redis.call('HMGET', KEYS[1], 'state', 'limit')
if not record[1] then
    return 'unknown'
end
if record[1] ~= 'active' then
    return record[1]
end
local used = redis.call('HINCRBY', KEYS[2], 'used', 1)
if used > tonumber(record[2]) then
    redis.call('HINCRBY', KEYS[2], 'used', -1)
    redis.call('HINCRBY', KEYS[2], 'denied', 1)
    return 'quota'
end
redis.call('HINCRBY', KEYS[2], 'c:' .. ARGV[1], 1)
if used == 1 then
    redis.call('EXPIRE', KEYS[2], 3456000)
end
return 'ok'
