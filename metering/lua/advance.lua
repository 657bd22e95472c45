-- Note that a roll-up has come through, in the store that it began with.
--
-- KEYS   ready
-- ARGV   what was noted when the roll-up began, what to note now (epoch ms)
-- Reply  1 noted; 0 another store, or one with other data, has taken the place of the one that was rolled up
--
-- One script, because a store that came back with older data in the middle of a roll-up must not be told that all of it
-- stands in the ledger: the next roll-up has to find that it is older.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
