-- Set aside which counters changed, for a roll-up that removes each once the ledger holds it.
--
-- KEYS   touched, collected
-- ARGV   none
-- Reply  the members collected, those that an earlier roll-up left behind included
--
-- One script, because a member added between copying and emptying `touched` would be lost.

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SUNIONSTORE', KEYS[2], KEYS[1], KEYS[2])
  redis.call('DEL', KEYS[1])
end
return redis.call('SMEMBERS', KEYS[2])
