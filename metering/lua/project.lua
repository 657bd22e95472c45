-- Put a key's record into force, when it is newer than the one that is.
--
-- KEYS   record
-- ARGV   revision, record (JSON), 1 when the key's counters were restored before, else 0
-- Reply  the revision in force, which may be a newer one; 0 left out: there is no record, and counts may be lost
--
-- One script, because two writers may bring two revisions at once and the older one must not win. A record in place
-- says that the key's counters are whole, so the record of a key that may have been used (any but its first revision)
-- does not go into an emptied store before its counters do.

local current = redis.call('HGET', KEYS[1], 'rev')
local restored = ARGV[3] == '1'
if not current and not restored and tonumber(ARGV[1]) > 1 then return 0 end
if not current or tonumber(ARGV[1]) > tonumber(current) then
  redis.call('HSET', KEYS[1], 'rev', ARGV[1], 'data', ARGV[2])
  return tonumber(ARGV[1])
end
return tonumber(current)
