-- Take requests for one trainer, and note the delivery of each before anything is done about it.
--
-- KEYS[1] requests  stream
-- KEYS[2] answered  zset    requests that have their answer -> when they were posted, ms
-- KEYS[3] attempts  hash    request -> JSON: deliveries, first, last (ms), consumers, reason, noted, call
--
-- ARGV[1] group     made at the stream's beginning where it is missing
-- ARGV[2] consumer
-- ARGV[3] idle      a request that its trainer has not touched for so long is taken over, ms
-- ARGV[4] limit     deliveries after which a request is given up
-- ARGV[5] batch     most requests taken
-- ARGV[6] call      random; the same until the consumer has had a reply
--
-- Answers {'BROKEN', key, type that it should have}, or {'OK', cursor, more, taken …}: `cursor` is the last entry that the
-- group was given, `more` is 1 if the same call may take more at once, and each taken request is
-- {id, how, fields, history}. How:
--
--   new      not delivered before
--   own      delivered to this consumer before
--   claimed  taken over from another one
--   spent    delivered as often as is allowed: not delivered again, and to be given up
--   gone     its entry was deleted: fields are empty
--
-- A request that was delivered before is taken with few others, then alone: if it is what kills trainers, it takes no other
-- one along for long. A delivery whose reply was lost, so that the same call comes again, is not counted.

for i, kind in ipairs({'stream', 'zset', 'hash'}) do
  local found = redis.call('TYPE', KEYS[i])['ok']
  if found ~= kind and found ~= 'none' then return {'BROKEN', KEYS[i], kind} end
end

local group, consumer, limit, batch, call = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function cursor()
  if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local info = {}
    for i = 1, #found, 2 do info[found[i]] = found[i + 1] end
    if info['name'] == group then return info['last-delivered-id'] end
  end
end

local function history_of(id)
  local stored = redis.call('HGET', KEYS[3], id)
  return stored and cjson.decode(stored) or {deliveries = 0, first = now, last = now, consumers = {}, reason = '', noted = 0}
end

local function deliver(id, history)
  history.deliveries = history.deliveries + 1
  history.last = now
  history.call = call
  local known = false
  for _, name in ipairs(history.consumers) do known = known or name == consumer end
  if not known then history.consumers[#history.consumers + 1] = consumer end
  redis.call('HSET', KEYS[3], id, cjson.encode(history))
end

-- How many may be taken together with one that was delivered so often, itself included. The last time it is alone.
local function company(deliveries)
  if deliveries == 0 then return batch end
  if deliveries + 1 >= limit then return 1 end
  return math.max(1, math.floor(batch / 8 ^ deliveries))
end

-- Has its answer, and was handed out again because the group was made anew.
local function done(id)
  if not redis.call('ZSCORE', KEYS[2], id) then return false end
  redis.call('XACK', KEYS[1], group, id)
  redis.call('HDEL', KEYS[3], id)
  return true
end

if not cursor() then redis.call('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM') end

local candidates = redis.call('XPENDING', KEYS[1], group, '-', '+', batch, consumer)
for _, row in ipairs(redis.call('XPENDING', KEYS[1], group, 'IDLE', ARGV[3], '-', '+', batch)) do
  if row[2] ~= consumer then candidates[#candidates + 1] = row end
end

local taken, fits, room, more = {}, 0, batch, 0
for _, row in ipairs(candidates) do
  local id, owner = row[1], row[2]
  if not done(id) then
    local history = history_of(id)
    history.deliveries = math.max(history.deliveries, row[4])
    if owner == consumer and history.call == call then
      history.deliveries = history.deliveries - 1
    elseif history.deliveries > 0 and history.noted ~= history.deliveries then
      history.reason = owner == consumer and 'its trainer left it undone' or 'trainer ' .. owner .. ' went silent'
    end
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    local how = owner == consumer and 'own' or 'claimed'
    if not entry then
      -- Not claimed: 7.0 would forget it, 6.2 keep it for ever; its answer acknowledges it.
      taken[#taken + 1] = {id, 'gone', {}, cjson.encode(history)}
    elseif history.deliveries >= limit then
      redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'JUSTID')
      taken[#taken + 1] = {id, 'spent', entry[2], cjson.encode(history)}
    elseif fits < math.min(room, company(history.deliveries)) then
      room = math.min(room, company(history.deliveries))
      fits = fits + 1
      redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'RETRYCOUNT', history.deliveries + 1)
      deliver(id, history)
      taken[#taken + 1] = {id, how, entry[2], cjson.encode(history)}
    end
  end
end

if #taken == 0 then
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', batch, 'STREAMS', KEYS[1], '>')
  for _, entry in ipairs(reply and reply[1][2] or {}) do
    local id = entry[1]
    if done(id) then
      more = 1
    else
      local history = history_of(id)
      if history.deliveries == 0 then
        deliver(id, history)
        taken[#taken + 1] = {id, 'new', entry[2], cjson.encode(history)}
      else
        -- Delivered before the group was lost: it is this consumer's now, and its turn comes.
        more = 1
      end
    end
  end
end

return {'OK', cursor(), more, unpack(taken)}
