-- Store one version, once: all of it, index included, or nothing.
--
-- KEYS[1…13], ARGV[1…5] as in `index.lua`
-- KEYS[14]  model     hash  number -> digest, and `last`, the last number given
-- KEYS[15]  models    zset  model names
-- KEYS[16]  versions  zset  digests
--
-- ARGV[6]   name      the model's name
-- ARGV[7]   digest    the version's digest
-- ARGV[8]   dataset   what stands before the last / of the name
-- ARGV[9]   target    what stands after it
-- ARGV[10]  trained   cell of trained_through
-- ARGV[11]  metrics   how many numbers follow: name, cell, …
-- then      tags      how many words follow: key, value, …; they are set with a version that is new
-- then      field, value, …  of the version
--
-- Answers {number, created in ms, "1" if it is new}. Reading all keys first makes a key of the wrong type an error before
-- the first write; the first write is one that a full memory denies, and what follows it is then not denied any more.

local stored = redis.call('HMGET', KEYS[12], 'number', 'created')
if stored[1] then return {stored[1], stored[2], '0'} end
look()
redis.call('HGET', KEYS[14], 'last')
redis.call('ZSCORE', KEYS[15], ARGV[6])
redis.call('ZSCORE', KEYS[16], ARGV[7])

local metrics, tags, at = {}, {}, 12
for i = 1, tonumber(ARGV[11]) do metrics[i] = ARGV[at + i - 1] end
at = at + #metrics + 1
for i = 1, tonumber(ARGV[at - 1]) do tags[i] = ARGV[at + i - 1] end
at = at + #tags
for i = 1, #metrics, 2 do redis.call('STRLEN', ARGV[2] .. metrics[i]) end
for i = 1, #tags, 2 do each_tag(tags[i], tags[i + 1], function(tag) redis.call('SCARD', ARGV[3] .. tag) end) end

local time = redis.call('TIME')
local created = string.format('%d%03d', time[1], math.floor(time[2] / 1000))
local number = tostring(redis.call('HINCRBY', KEYS[14], 'last', 1))
redis.call('HSET', KEYS[12], 'name', ARGV[6], 'number', number, 'created', created, unpack(ARGV, at))
redis.call('HSET', KEYS[14], number, ARGV[7])
redis.call('ZADD', KEYS[15], 0, ARGV[6])
redis.call('ZADD', KEYS[16], 0, ARGV[7])
if #tags > 0 then redis.call('HSET', KEYS[13], unpack(tags)) end
add_row(created, ARGV[8], ARGV[9], ARGV[10], metrics)
return {number, created, '1'}
