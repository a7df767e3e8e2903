-- Store a release that is not in force, once: all of it or nothing.
--
-- KEYS[1]  candidates zset   releases that were never in force
-- KEYS[2]  release    hash   the release
-- KEYS[3…] versions   hash   all that it points at
--
-- ARGV[1]  id
-- ARGV[2]  body      of the release, whole
-- ARGV[3]  count     how many aliases it has
-- ARGV[4…] names     of the models of the versions
--
-- Answers {word, detail}: MISSING or MISNAMED with the index of the version, KNOWN if the store has the release, OK. The
-- first write is one that a full memory denies.

for i = 3, #KEYS do
  local name = redis.call('HGET', KEYS[i], 'name')
  if not name then return {'MISSING', tostring(i - 3)} end
  if name ~= ARGV[i + 1] then return {'MISNAMED', tostring(i - 3)} end
end
if redis.call('HEXISTS', KEYS[2], 'body') == 1 then return {'KNOWN', ''} end
redis.call('ZCARD', KEYS[1])

local time = redis.call('TIME')
local created = string.format('%d%03d', time[1], math.floor(time[2] / 1000))
redis.call('HSET', KEYS[2], 'base', '', 'depth', '0', 'count', ARGV[3], 'body', ARGV[2], 'created', created)
redis.call('ZADD', KEYS[1], created, ARGV[1])
return {'OK', ''}
