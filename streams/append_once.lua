-- Append an entry unless one with its mark was appended before.
--
-- KEYS[1] stream
-- KEYS[2] marks     zset    mark of an entry -> when it was appended, ms
--
-- ARGV[1]  keep     how many marks are remembered, the newest
-- ARGV[2]  mark
-- ARGV[3…] fields   of the entry, name and value in turn
--
-- Answers the entry's id, or nil if it was appended before. A key of the wrong type is an error before the first write;
-- the first write is one that a full memory denies.

if redis.call('ZSCORE', KEYS[2], ARGV[2]) then return false end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], string.match(entry, '^%d+'), ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[1])
return entry
