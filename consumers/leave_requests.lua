-- Leave requests undone, and say why.
--
-- KEYS[1]  requests  stream
-- KEYS[2]  attempts  hash    as in take_requests.lua
-- ARGV[1]  group
-- ARGV[2]  consumer
-- ARGV[3]  back      "1": the trainer stops. The delivery does not count, and others may take the requests at once.
-- ARGV[4]  reason
-- ARGV[5…] ids
--
-- Answers how many of them were this consumer's still; the others are left alone.

local left = 0
for i = 5, #ARGV do
  local id = ARGV[i]
  local stored = redis.call('HGET', KEYS[2], id)
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  if stored and pending and #redis.call('XRANGE', KEYS[1], id, id) > 0 then
    left = left + 1
    local history = cjson.decode(stored)
    if ARGV[3] == '1' then
      history.deliveries = math.max(0, history.deliveries - 1)
      -- A day of idleness: more than anybody waits for.
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', 86400000, 'RETRYCOUNT', history.deliveries, 'JUSTID')
    end
    history.reason, history.noted = ARGV[4], history.deliveries
    redis.call('HSET', KEYS[2], id, cjson.encode(history))
  end
end
return left
