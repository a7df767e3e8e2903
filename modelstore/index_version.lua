-- Give one version that is in the store its row in the index, if it has none.
--
-- KEYS[1…13], ARGV[1…5] as in `index.lua`
--
-- ARGV[6]   dataset   what stands before the last / of the model's name
-- ARGV[7]   target    what stands after it
-- ARGV[8]   trained   cell of trained_through
-- ARGV[9…]  name, cell, …  of the metrics
--
-- Answers 1 if it was given one, 0 if it has one or is gone. The first write is one that a full memory denies.

local created = redis.call('HGET', KEYS[12], 'created')
if not created or row_of() then return 0 end
look()
add_row(created, ARGV[6], ARGV[7], ARGV[8], {unpack(ARGV, 9)})
return 1
