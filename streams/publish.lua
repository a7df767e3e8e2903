-- Append a publisher's next ticks to one partition, unless they are in it already.
--
-- KEYS[1]  ticks       stream
-- KEYS[2]  publishers  hash    publisher -> "TICKS ENTRY MS": ticks of its sequence that were taken, the last entry, when
--
-- ARGV[1]  publisher   its name
-- ARGV[2]  known       the last entry that it knows of here, "" if none: then it may begin anywhere
-- ARGV[3]  base        ticks of its sequence before these
-- ARGV[4]  count       ticks in these entries; 0 for a clock entry, which may be appended twice without harm
-- ARGV[5]  expiry      ms after which a silent publisher is forgotten
-- then per entry:      number of words, field, value, …
--
-- Answers {word, ticks, entry}, or {'BROKEN', key, what it should be}; every check before the first write:
--   OK     appended; the last entry's id
--   DUP    `ticks` of its sequence had been taken, more than base: those are not appended again, and nothing else is
--   GAP    only `ticks` had been taken, less than base: the log lost what it had acknowledged, or they were never sent
--   RESET  the log knows nothing of what this publisher knows: the stream or the table is gone, or fell back
--   BROKEN a key of the wrong type, or a stream whose ids are nearly used up: an XADD in the midst could find none
-- The first write is an XADD, which Redis refuses when its memory is full: then nothing is appended or counted.

local function earlier(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  -- Numbers of 64 bits do not fit Lua's; without leading zeros the longer text is the larger number.
  if am ~= bm then return #am < #bm or (#am == #bm and am < bm) end
  return #as < #bs or (#as == #bs and as < bs)
end

-- The first look at each key tells whether it is of the right type: many ticks come alone, and each call counts.
local function refused(reply, key, kind)
  if type(reply) ~= 'table' or not reply['err'] then return nil end
  return string.find(reply['err'], 'WRONGTYPE', 1, true) and {'BROKEN', key, kind} or reply
end

local length, record = redis.pcall('XLEN', KEYS[1]), redis.pcall('HGET', KEYS[2], ARGV[1])
local refusal = refused(length, KEYS[1], 'stream') or refused(record, KEYS[2], 'hash')
if refusal then return refusal end
-- Where a stream's ids stand: an empty one is quickly asked for its last id; a filled one is not, since the answer has its
-- first and its last entry, which may be blocks. The largest millisecond leaves no room to count in. (Looked for from the
-- end: forwards, Redis would go through a whole node.)
local empty, last_id = length == 0, '0-0'
if empty and redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last_id = info[i + 1] end
  end
end
if string.sub(last_id, 1, 20) == '18446744073709551615'
  or (not empty and #redis.call('XREVRANGE', KEYS[1], '+', '18446744073709551615-0', 'COUNT', 1) > 0) then
  return {'BROKEN', KEYS[1], 'stream with ids left'}
end

local base, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local total = base + count
if record then
  local ticks, entry = string.match(record, '^(%d+) (%S+)')
  -- What a filled stream lost at its end, its ids have passed.
  if ARGV[2] ~= '' and empty and earlier(last_id, entry) then return {'RESET', ticks, entry} end
  local taken = tonumber(ticks)
  if taken > base and count > 0 then return {'DUP', ticks, entry} end
  if taken < base and ARGV[2] ~= '' then return {'GAP', ticks, entry} end
  -- A clock entry may come before ticks that are begun again, or late: what was taken stays taken.
  total = math.max(total, taken)
elseif ARGV[2] ~= '' then
  return {'RESET', '0', ''}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local i, last = 6, nil
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + words))
  i = i + words + 1
end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d %s %d', total, last, now))
-- A new publisher: now and then those that have been silent for long make room.
if not record and redis.call('HLEN', KEYS[2]) % 128 == 0 then
  local all = redis.call('HGETALL', KEYS[2])
  for at = 1, #all, 2 do
    -- What is no record was written by nobody who comes back; an error here would come after the entries were appended.
    local when = tonumber(string.match(all[at + 1], '(%d+)$')) or 0
    if now - when > tonumber(ARGV[5]) then redis.call('HDEL', KEYS[2], all[at]) end
  end
end
return {'OK', string.format('%d', total), last}
