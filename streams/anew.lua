-- Begin a partition's input anew: a new incarnation, read from the beginning of the stream.
--
-- KEYS[1]  state   hash
-- KEYS[2]  lease   string
-- KEYS[3]  ticks   stream
-- KEYS[4]  dead    stream
--
-- ARGV[1]  token        the caller's lease token
-- ARGV[2]  counter      commits so far, as the caller believes
-- ARGV[3]  successor    counter + 1
-- ARGV[4]  nonce        random; tells a landed call whose reply was lost from somebody else's
-- ARGV[5]  incarnation  the new one
-- ARGV[6]  past         ids of the stream go on after this, so that they never fall behind an old checkpoint
-- ARGV[7]  group
-- ARGV[8]  wipe         "1": forget symbols, release and clock as well (another configuration starts anew)
-- ARGV[9]  fingerprint
-- ARGV[10] schema       format of the state
-- ARGV[11…] letter      fields of a dead letter about it, name and value in turn; there may be none
--
-- Answers {word, entries}: FENCED, RESET, DUP or OK, and after the latter two how many entries count as passed: those that
-- the stream had and has no longer (7.0 knows), or the group's lag would be too large by them for ever.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'FENCED', ''} end
local stored = redis.call('HMGET', KEYS[1], 'counter', 'nonce', 'entries')
local counter = stored[1] or '0'
if counter == ARGV[3] and stored[2] == ARGV[4] then return {'DUP', stored[3]} end
if counter ~= ARGV[2] then return {'RESET', ''} end

-- A write that is never refused comes first: behind it the others work when memory is full (see commit.lua).
redis.call('XTRIM', KEYS[3], 'MINID', '0-1')
local created = redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[7], '0', 'MKSTREAM')
if type(created) == 'table' and created['err'] then redis.call('XGROUP', 'SETID', KEYS[3], ARGV[7], '0') end
-- Refused when the stream's ids have already gone past; then there is nothing to do.
redis.pcall('XSETID', KEYS[3], ARGV[6])
local info, of_stream = {}, redis.call('XINFO', 'STREAM', KEYS[3])
for i = 1, #of_stream, 2 do info[of_stream[i]] = of_stream[i + 1] end
local entries = string.format('%d', (info['entries-added'] or info['length']) - info['length'])
if ARGV[8] == '1' then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'counter', ARGV[3], 'nonce', ARGV[4], 'checkpoint', '0-0', 'entries', entries,
  'within', '', 'incarnation', ARGV[5], 'schema', ARGV[10], 'fingerprint', ARGV[9])
if ARGV[8] == '1' then redis.call('HSET', KEYS[1], 'release', '', 'clock', '') end
-- Last, since nothing depends on it: the stream of dead letters may be none, or take no more.
if #ARGV > 10 then redis.pcall('XADD', KEYS[4], '*', unpack(ARGV, 11)) end
return {'OK', entries}
