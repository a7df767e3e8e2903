-- Say that requests are being worked on, so that no other trainer takes them over.
--
-- KEYS[1]  requests  stream
-- ARGV[1]  group
-- ARGV[2]  consumer
-- ARGV[3…] ids
--
-- Answers the ids that are still this consumer's. Touching is XCLAIM by the owner itself with JUSTID: idle time begins
-- anew, no delivery is counted. What another trainer took over meanwhile is left to it, and an entry that was deleted is
-- not touched, because 7.0 would forget that it is pending and so that it waits for an answer.

local mine = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) > 0 then
    mine[#mine + 1] = id
    if #redis.call('XRANGE', KEYS[1], id, id) > 0 then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
    end
  end
end
return mine
