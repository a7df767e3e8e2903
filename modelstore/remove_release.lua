-- Remove one release that is not in force.
--
-- KEYS[1]  pointer    hash   the release in force
-- KEYS[2]  release    hash   the release
-- KEYS[3]  candidates zset   releases that were never in force
--
-- ARGV[1]  release    its id
-- ARGV[2]  id         of the release in force when it was decided that nothing needs this one
-- ARGV[3]  number     of it
-- ARGV[4]  created    of it
--
-- Answers OK, GONE, or CONFLICT (another release was put in force since: decide again).

local pointer = redis.call('HMGET', KEYS[1], 'id', 'number', 'created')
for i = 1, 3 do
  if (pointer[i] or '') ~= ARGV[i + 1] then return 'CONFLICT' end
end
if pointer[1] == ARGV[1] then return 'CONFLICT' end
redis.call('ZSCORE', KEYS[3], ARGV[1])
local gone = redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return gone == 1 and 'OK' or 'GONE'
