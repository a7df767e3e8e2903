-- Move an entry from one stream to another of the same slot: append it there, delete it here.
--
-- KEYS[1] from  stream
-- KEYS[2] to    stream
--
-- ARGV[1]  id       of the entry in the first stream
-- ARGV[2…] fields   to append to the second one, name and value in turn
--
-- Answers the new entry's id, or nil if the entry is not there (any more). A key of the wrong type is an error before the
-- first write; the first write is one that a full memory denies.

if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
local entry = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return entry
