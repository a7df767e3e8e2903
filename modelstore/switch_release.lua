-- Put a release in force: compare and set, all of it or nothing.
--
-- KEYS[1]  pointer   hash    id, number, parent, created of the release in force
-- KEYS[2]  history   stream  one entry per switch
-- KEYS[3]  release   hash    the release to put in force
-- KEYS[4]  base      hash    the release that the body is a delta to; KEYS[3] again if the body is whole
-- KEYS[5]  candidates zset   releases that were never in force
-- KEYS[6…] versions  hash    versions that the release points at anew, ARGV[13] of them
-- then     verdicts  stream  one per verdict that explains the switch
--
-- ARGV[1]  id        expected in force, "" for none
-- ARGV[2]  number    expected in force, "0" for none
-- ARGV[3]  new id
-- ARGV[4]  keep      about how many entries the history keeps
-- ARGV[5]  channel   told of the switch
-- ARGV[6]  who
-- ARGV[7]  why
-- ARGV[8]  body      of the release, "" if it must be there already
-- ARGV[9]  base      id of the base, "" if the body is whole
-- ARGV[10] depth     how many bodies lead to a whole one, by way of the base
-- ARGV[11] basedepth the same of the base, as the caller believes
-- ARGV[12] count     how many aliases the release has
-- ARGV[13] versions  how many of KEYS[6…] are versions
-- ARGV[14] verdicts  about how many verdicts a model keeps
-- ARGV[15] snapshot  that the release came with, "" for none
-- then     names     of the models of the versions
-- then     per verdict: at, verdict, version, over, reason
--
-- Answers {word, detail, created in ms, number, depth as stored}: CONFLICT with the id in force, MISSING or MISNAMED
-- with the index of the version, NOBASE (or one of another depth), NORELEASE, OK. Every check comes before the first
-- write, and asking for the lengths of streams makes a key of the wrong type an error there; the first write is one that
-- a full memory denies, and what follows it is then not denied any more.

local found = redis.call('HMGET', KEYS[1], 'id', 'number')
local id, number = found[1] or '', found[2] or '0'
if id ~= ARGV[1] or number ~= ARGV[2] then return {'CONFLICT', id} end

local versions = tonumber(ARGV[13])
for i = 6, 5 + versions do
  local name = redis.call('HGET', KEYS[i], 'name')
  if not name then return {'MISSING', tostring(i - 6)} end
  if name ~= ARGV[i + 10] then return {'MISNAMED', tostring(i - 6)} end
end

local known = redis.call('HEXISTS', KEYS[3], 'body') == 1
if not known and ARGV[8] == '' then return {'NORELEASE', ''} end
if not known and ARGV[9] ~= '' and redis.call('HGET', KEYS[4], 'depth') ~= ARGV[11] then return {'NOBASE', ''} end
redis.call('XLEN', KEYS[2])
redis.call('ZCARD', KEYS[5])
for i = 6 + versions, #KEYS do redis.call('XLEN', KEYS[i]) end

local time = redis.call('TIME')
local created = string.format('%d%03d', time[1], math.floor(time[2] / 1000))
local successor = string.format('%d', number + 1)
if not known then
  redis.call('HSET', KEYS[3], 'base', ARGV[9], 'depth', ARGV[10], 'count', ARGV[12], 'body', ARGV[8],
    'created', created)
end
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'number', successor, 'parent', id, 'created', created)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'number', successor, 'id', ARGV[3], 'parent', id,
  'who', ARGV[6], 'why', ARGV[7], 'snapshot', ARGV[15], 'created', created)
redis.call('ZREM', KEYS[5], ARGV[3])
for i = 6 + versions, #KEYS do
  local at = 16 + versions + (i - 6 - versions) * 5
  redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[14], '*', 'at', ARGV[at], 'verdict', ARGV[at + 1],
    'version', ARGV[at + 2], 'over', ARGV[at + 3], 'reason', ARGV[at + 4], 'release', ARGV[3])
end
redis.call('PUBLISH', ARGV[5], successor .. ' ' .. ARGV[3])
return {'OK', '', created, successor, redis.call('HGET', KEYS[3], 'depth')}
