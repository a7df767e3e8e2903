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
-- Answers {word, ticks, entry}, every check before the first write:
--   OK     appended; the last entry's id
--   DUP    `ticks` of its sequence had been taken, more than base: those are not appended again, and nothing else is
--   GAP    only `ticks` had been taken, less than base: the log lost what it had acknowledged, or they were never sent
--   RESET  the log knows nothing of what this publisher knows: the stream or the table is gone, or fell back
-- The first write is an XADD, which Redis refuses when its memory is full: then nothing is appended or counted.

local function earlier(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  -- Numbers of 64 bits do not fit Lua's; without leading zeros the longer text is the larger number.
  if am ~= bm then return #am < #bm or (#am == #bm and am < bm) end
  return #as < #bs or (#as == #bs and as < bs)
end

local base, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local total = base + count
local record = redis.call('HGET', KEYS[2], ARGV[1])
if record then
  local ticks, entry = string.match(record, '^(%d+) (%S+)')
  if ARGV[2] ~= '' then
    local length = redis.call('XLEN', KEYS[1])
    if length == 0 then
      -- An empty stream is quickly asked for its last id; what a filled one lost at its end, its ids have passed.
      local last = '0-0'
      if redis.call('EXISTS', KEYS[1]) == 1 then
        local info = redis.call('XINFO', 'STREAM', KEYS[1])
        for i = 1, #info, 2 do
          if info[i] == 'last-generated-id' then last = info[i + 1] end
        end
      end
      if earlier(last, entry) then return {'RESET', ticks, entry} end
    end
  end
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
    local when = string.match(all[at + 1], '(%d+)$')
    if now - tonumber(when) > tonumber(ARGV[5]) then redis.call('HDEL', KEYS[2], all[at]) end
  end
end
return {'OK', string.format('%d', total), last}
