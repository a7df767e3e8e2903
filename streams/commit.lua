-- Commit one batch of one partition: outputs, state, checkpoint and group cursor, all or nothing.
--
-- KEYS[1]  state   hash    checkpoint, counter, nonce, entries, … and one field per symbol
-- KEYS[2]  lease   string  the owner's token
-- KEYS[3]  ticks   stream  the input
-- KEYS[4…] outputs streams bars, predictions, signals, outcomes, dead
--
-- ARGV[1]  token      the caller's lease token
-- ARGV[2]  nonce      random, one per batch
-- ARGV[3]  counter    commits so far, as the caller believes
-- ARGV[4]  successor  counter + 1 (Lua's doubles end at 2^53, so the caller counts)
-- ARGV[5]  after      the entry that the batch was read after, "0-0" for the beginning
-- ARGV[6]  last       the last entry that was read: the new checkpoint
-- ARGV[7]  group      consumer group whose cursor follows the checkpoint
-- ARGV[8]  entries    entries passed since the stream began, for the group's lag
-- ARGV[9]  trim       drop input entries before this id, "" for none; never past the checkpoint
-- ARGV[10] keep       about how many entries an output stream keeps
-- ARGV[11] entriesread "1" where XGROUP knows ENTRIESREAD (7.0)
-- ARGV[12] n          number of state fields, then n × (field, value)
-- then per output:    index into KEYS, number of arguments, field, value, …
--
-- Answers {word, detail}: FENCED, DUP, RESET, GAP, BROKEN, OK. Scripts have no rollback, so every check comes before the
-- first write. The first write is a trim that drops nothing: before 7.0 that is what lets the rest run when memory is
-- full. The trim that drops input comes last: should a write fail all the same (a user who may not call it), the batch
-- can be read again.

local function is(key, kind)
  local found = redis.call('TYPE', key)['ok']
  return found == kind or found == 'none', found
end

if not is(KEYS[2], 'string') then return {'BROKEN', KEYS[2]} end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'FENCED', ''} end

if not is(KEYS[1], 'hash') then return {'BROKEN', KEYS[1]} end
local stored = redis.call('HMGET', KEYS[1], 'counter', 'nonce')
local counter = stored[1] or '0'
if counter == ARGV[4] and stored[2] == ARGV[2] then return {'DUP', ''} end
if counter ~= ARGV[3] then return {'RESET', counter} end

local ok, found = is(KEYS[3], 'stream')
if not ok then return {'BROKEN', KEYS[3]} end
if found == 'none' then return {'GAP', ARGV[6]} end
for _, anchor in ipairs({ARGV[5], ARGV[6]}) do
  if anchor ~= '0-0' and #redis.call('XRANGE', KEYS[3], anchor, anchor) == 0 then return {'GAP', anchor} end
end

for i = 4, #KEYS do
  local right, kind = is(KEYS[i], 'stream')
  if not right then return {'BROKEN', KEYS[i]} end
  if kind == 'stream' then
    local info = redis.call('XINFO', 'STREAM', KEYS[i])
    for j = 1, #info, 2 do
      -- The largest millisecond leaves no room to count in: the next XADD may find no id.
      if info[j] == 'last-generated-id' and string.sub(info[j + 1], 1, 20) == '18446744073709551615' then
        return {'BROKEN', KEYS[i]}
      end
    end
  end
end

redis.call('XTRIM', KEYS[3], 'MINID', '0-1')

local setid = {'XGROUP', 'SETID', KEYS[3], ARGV[7], ARGV[6]}
local create = {'XGROUP', 'CREATE', KEYS[3], ARGV[7], ARGV[6]}
if ARGV[11] == '1' then
  for _, command in ipairs({setid, create}) do
    command[#command + 1] = 'ENTRIESREAD'
    command[#command + 1] = ARGV[8]
  end
end
local moved = redis.pcall(unpack(setid))
if type(moved) == 'table' and moved['err'] then redis.call(unpack(create)) end

redis.call('HSET', KEYS[1], 'counter', ARGV[4], 'nonce', ARGV[2], 'checkpoint', ARGV[6], 'entries', ARGV[8])
local at = 13
for _ = 1, tonumber(ARGV[12]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end

while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[tonumber(ARGV[at])], 'MAXLEN', '~', ARGV[10], '*', unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end

if ARGV[9] ~= '' then redis.call('XTRIM', KEYS[3], 'MINID', ARGV[9]) end
return {'OK', ''}
