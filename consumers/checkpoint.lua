-- Write the monitor's checkpoint: compare and set on its counter.
--
-- KEYS[1] monitor    hash
--
-- ARGV[1]  counter   as the caller believes
-- ARGV[2]  successor counter + 1 (Lua's doubles end at 2^53, so the caller counts)
-- ARGV[3…] fields    name and value in turn
--
-- Answers 1, or 0 if the counter is another one.

if (redis.call('HGET', KEYS[1], 'counter') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'counter', ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
