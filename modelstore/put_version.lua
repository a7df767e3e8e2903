-- Store one version, once: all of it or nothing.
--
-- KEYS[1]  version   hash  the version; once written it never changes
-- KEYS[2]  model     hash  number -> digest, and `last`, the last number given
-- KEYS[3]  models    zset  model names
-- KEYS[4]  versions  zset  digests
--
-- ARGV[1]  name      the model's name
-- ARGV[2]  digest    the version's digest
-- ARGV[3…] field, value, …  of the version
--
-- Answers {number, created in ms}. Reading all keys first makes a key of the wrong type an error before the first write;
-- the first write is one that a full memory denies, and what follows it is then not denied any more.

local stored = redis.call('HMGET', KEYS[1], 'number', 'created')
if stored[1] then return stored end
redis.call('HGET', KEYS[2], 'last')
redis.call('ZSCORE', KEYS[3], ARGV[1])
redis.call('ZSCORE', KEYS[4], ARGV[2])

local time = redis.call('TIME')
local created = string.format('%d%03d', time[1], math.floor(time[2] / 1000))
local number = tostring(redis.call('HINCRBY', KEYS[2], 'last', 1))
redis.call('HSET', KEYS[1], 'name', ARGV[1], 'number', number, 'created', created, unpack(ARGV, 3))
redis.call('HSET', KEYS[2], number, ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], 0, ARGV[2])
return {number, created}
