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
-- ARGV[6]  last       the last entry that was read, if only in part
-- ARGV[7]  checkpoint the last entry that is done: the new checkpoint
-- ARGV[8]  group      consumer group whose cursor follows the checkpoint
-- ARGV[9]  entries    entries passed since the stream began, for the group's lag
-- ARGV[10] trim       drop input entries before this id, "" for none; never past the checkpoint
-- ARGV[11] keep       about how many entries an output stream keeps
-- ARGV[12] entriesread "1" where XGROUP knows ENTRIESREAD (7.0)
-- ARGV[13] foreign    length of the input up to which groups that are not required are waited for
-- ARGV[14] most       most entries that are taken from such groups at once
-- ARGV[15] r          number of required groups, then r × name
-- then                number of state fields, then (field, value) each
-- then per output:    index into KEYS, number of arguments, field, value, …
--
-- Answers {word, detail}: FENCED, DUP, RESET, GAP, BROKEN, OK; after OK, {group, entries} for each group that is not
-- required and lost entries to the trim that it had not read or not acknowledged. The detail of an OK is a required group
-- that does not exist, so that nothing was trimmed; else it is empty. Scripts have no rollback, so every check comes before the
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

local setid = {'XGROUP', 'SETID', KEYS[3], ARGV[8], ARGV[7]}
local create = {'XGROUP', 'CREATE', KEYS[3], ARGV[8], ARGV[7]}
if ARGV[12] == '1' then
  for _, command in ipairs({setid, create}) do
    command[#command + 1] = 'ENTRIESREAD'
    command[#command + 1] = ARGV[9]
  end
end
local moved = redis.pcall(unpack(setid))
if type(moved) == 'table' and moved['err'] then redis.call(unpack(create)) end

redis.call('HSET', KEYS[1], 'counter', ARGV[4], 'nonce', ARGV[2], 'checkpoint', ARGV[7], 'entries', ARGV[9])
local at = 16 + tonumber(ARGV[15])
local fields = tonumber(ARGV[at])
at = at + 1
for _ = 1, fields do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end

while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[tonumber(ARGV[at])], 'MAXLEN', '~', ARGV[11], '*', unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end

if ARGV[10] == '' then return {'OK', ''} end

-- The trim, in the same breath as the look at who still needs what: an entry is dropped once the scorers, every required
-- group and, up to a length, every other group are done with it. A required group that does not exist has read nothing.
local function earlier(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  -- Numbers of 64 bits do not fit Lua's; without leading zeros the longer text is the larger number.
  if am ~= bm then return #am < #bm or (#am == #bm and am < bm) end
  return #as < #bs or (#as == #bs and as < bs)
end

local cut, hold, oldest, waiting, missing = ARGV[10], nil, nil, {}, {}
for i = 16, 15 + tonumber(ARGV[15]) do missing[ARGV[i]] = true end
local required = {}
for name in pairs(missing) do required[name] = true end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[3])) do
  local group = {}
  for j = 1, #info, 2 do group[info[j]] = info[j + 1] end
  local name, done = group['name'], group['last-delivered-id']
  missing[name] = nil
  if name ~= ARGV[8] then
    if group['pending'] > 0 then
      -- What was deleted stays pending: only what is still there counts.
      oldest = oldest or redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1][1]
      local first = redis.call('XPENDING', KEYS[3], name, oldest, '+', 1)[1]
      if first and earlier(first[1], done) then done = first[1] end
    end
    if earlier(done, cut) then
      if required[name] then
        cut = done
      else
        waiting[#waiting + 1] = {name = name, done = done, delivered = group['last-delivered-id']}
      end
    end
  end
end
if next(missing) then return {'OK', (next(missing))} end
hold = cut
for _, group in ipairs(waiting) do
  if earlier(group.done, hold) then hold = group.done end
end
redis.call('XTRIM', KEYS[3], 'MINID', hold)
local answer = {'OK', ''}
local excess = redis.call('XLEN', KEYS[3]) - tonumber(ARGV[13])
if hold ~= cut and excess > 0 then
  local dropped = redis.call('XRANGE', KEYS[3], '-', '(' .. cut, 'COUNT', math.min(excess, tonumber(ARGV[14])))
  if #dropped > 0 then
    local last = dropped[#dropped][1]
    for _, group in ipairs(waiting) do
      local lost = #redis.call('XPENDING', KEYS[3], group.name, dropped[1][1], last, #dropped)
      for _, entry in ipairs(dropped) do
        if earlier(group.delivered, entry[1]) then lost = lost + 1 end
      end
      if lost > 0 then answer[#answer + 1] = {group.name, lost} end
    end
    redis.call('XTRIM', KEYS[3], 'MAXLEN', redis.call('XLEN', KEYS[3]) - #dropped)
  end
end
return answer
