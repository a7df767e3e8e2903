-- Answer requests: add what they are answered with, and acknowledge them, each at most once.
--
-- KEYS[1]  requests  stream
-- KEYS[2]  answered  zset    request -> when it was posted, ms
-- KEYS[3]  attempts  hash    request -> history of its deliveries
-- KEYS[4…] outputs   streams
--
-- ARGV[1]  group
-- ARGV[2]  keep      about how many requests stay in the stream once they are answered
-- then per request:  id, number of outputs, and per output: index into KEYS, most entries kept there (about), number of
--                    words, field, value, …
--
-- Answers {'BROKEN', key, type that it should have} before anything is written, or {'OK', n}: n requests got their answer
-- now, the others had it already, or nobody waits for it: the entry is neither in the stream nor pending.
--
-- The first write adds an answer, which a full memory denies; then nothing is written, and the requests stay pending.

local kinds = {'stream', 'zset', 'hash'}
for i, key in ipairs(KEYS) do
  local kind, found = kinds[i] or 'stream', redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then return {'BROKEN', key, kind} end
  if i > 3 and found == 'stream' then
    local info = redis.call('XINFO', 'STREAM', key)
    for j = 1, #info, 2 do
      if info[j] == 'last-generated-id' and string.sub(info[j + 1], 1, 20) == '18446744073709551615' then
        return {'BROKEN', key, 'stream with ids left'}
      end
    end
  end
end

local group, keep = ARGV[1], tonumber(ARGV[2])

local function pending(id)
  local found = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
  return not found['err'] and #found > 0
end

local now_answered, settled, at = 0, {}, 3
while at <= #ARGV do
  local id, outputs = ARGV[at], tonumber(ARGV[at + 1])
  local wanted = not redis.call('ZSCORE', KEYS[2], id)
    and (pending(id) or #redis.call('XRANGE', KEYS[1], id, id) > 0)
  at = at + 2
  for _ = 1, outputs do
    local key, most, words = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2])
    if wanted then redis.call('XADD', key, 'MAXLEN', '~', most, '*', unpack(ARGV, at + 3, at + 2 + words)) end
    at = at + 3 + words
  end
  if wanted then
    redis.call('ZADD', KEYS[2], string.match(id, '^%d+'), id)
    now_answered = now_answered + 1
  end
  settled[#settled + 1] = id
end
for _, id in ipairs(settled) do
  redis.call('XACK', KEYS[1], group, id)
  redis.call('HDEL', KEYS[3], id)
end

-- Ids are compared as numbers of up to 20 digits, which a double does not hold.
local function below(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return #a_ms < #b_ms or (#a_ms == #b_ms and a_ms < b_ms) end
  return #a_seq < #b_seq or (#a_seq == #b_seq and a_seq < b_seq)
end

-- The first request that is pending, else the last one that was handed out; nothing from there on is trimmed.
local function safe()
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local info = {}
    for i = 1, #found, 2 do info[found[i]] = found[i + 1] end
    if info['name'] == group then
      local summary = redis.call('XPENDING', KEYS[1], group)
      return summary[1] > 0 and summary[2] or info['last-delivered-id']
    end
  end
end

local surplus = redis.call('XLEN', KEYS[1]) - keep
if surplus > 0 then
  -- Bounded: one call must not stop Redis for long. The next answer trims what is left over.
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(surplus, 1000) + 1)
  local cut, bound = oldest[#oldest][1], safe()
  if bound then
    if below(bound, cut) then cut = bound end
    redis.call('XTRIM', KEYS[1], 'MINID', cut)
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    if first then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.match(first[1], '^%d+')) end
  end
end

return {'OK', now_answered}
