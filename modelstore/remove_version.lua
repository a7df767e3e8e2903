-- Remove one version: all of it, index and tags included, or nothing.
--
-- KEYS[1…13], ARGV[1…5] as in `index.lua`
-- KEYS[14]  model     hash  number -> digest
-- KEYS[15]  models    zset  model names
-- KEYS[16]  versions  zset  digests
-- KEYS[17]  pointer   hash  the release in force
-- KEYS[18]  candidates zset releases that were never in force
-- KEYS[19]  pins      zset  DIGEST:IMPORT
-- KEYS[20]  imports   zset  import -> when it counts as dead, ms
--
-- ARGV[6]   digest
-- ARGV[7]   id         of the release in force when it was decided that no release needs the version, "" for none
-- ARGV[8]   number     of it, "" for none
-- ARGV[9]   created    of it, "" for none
-- ARGV[10]  candidates how many there were then
-- ARGV[11]  newest     when the newest of them was stored, "" for none
--
-- Answers OK, GONE (there is no such version), CONFLICT (releases changed since: decide again), PINNED (a running import
-- needs it). A release comes into being only by a switch, which moves the pointer, or as a candidate, which adds one.
-- Nothing is denied by a full memory: the first write frees some.

local found = redis.call('HMGET', KEYS[12], 'name', 'number')
if not found[1] then return 'GONE' end
local pointer = redis.call('HMGET', KEYS[17], 'id', 'number', 'created')
for i = 1, 3 do
  if (pointer[i] or '') ~= ARGV[6 + i] then return 'CONFLICT' end
end
local newest = redis.call('ZRANGE', KEYS[18], -1, -1, 'WITHSCORES')[2] or ''
if redis.call('ZCARD', KEYS[18]) ~= tonumber(ARGV[10]) or newest ~= ARGV[11] then return 'CONFLICT' end
local time = redis.call('TIME')
local now = time[1] * 1000
for _, pin in ipairs(redis.call('ZRANGEBYLEX', KEYS[19], '[' .. ARGV[6] .. ':', '(' .. ARGV[6] .. ';')) do
  local dead = redis.call('ZSCORE', KEYS[20], string.sub(pin, 66))
  if dead and tonumber(dead) > now then return 'PINNED' end
end
look()
redis.call('ZSCORE', KEYS[15], found[1])
redis.call('ZSCORE', KEYS[16], ARGV[6])
local left = redis.call('HLEN', KEYS[14])

local row = row_of()
redis.call('DEL', KEYS[12])
if redis.call('HGET', KEYS[14], found[2] or '') == ARGV[6] then
  redis.call('HDEL', KEYS[14], found[2])
  left = left - 1
end
-- `last` stays: a number is given once.
if left <= 1 then redis.call('ZREM', KEYS[15], found[1]) end
redis.call('ZREM', KEYS[16], ARGV[6])
if row then free_row(row) end
redis.call('DEL', KEYS[13])
return 'OK'
