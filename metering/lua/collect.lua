-- Set aside which counters of a shard changed.
--
-- KEYS   touched, collected
-- ARGV   none
-- Reply  how many are collected, those that an earlier roll-up left behind included
--
-- One script, because a member added between copying and emptying `touched` would be lost. What was left behind is
-- seldom there: without it the set is renamed, which takes no longer with a million members than with one.

if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('RENAME', KEYS[1], KEYS[2])
  else
    redis.call('SUNIONSTORE', KEYS[2], KEYS[1], KEYS[2])
    redis.call('DEL', KEYS[1])
  end
end
return redis.call('SCARD', KEYS[2])
