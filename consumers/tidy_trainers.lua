-- Remove consumers that are gone for good: silent for long, and nothing is pending for them.
--
-- KEYS[1] requests  stream
-- ARGV[1] group
-- ARGV[2] consumer  the caller, which stays
-- ARGV[3] silent    for how long, ms
--
-- Answers the names of those removed. XGROUP DELCONSUMER drops what is pending for a consumer, hence the look and the
-- removal in one step.

local removed = {}
if redis.call('TYPE', KEYS[1])['ok'] ~= 'stream' then return removed end
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if found['err'] then return removed end
for _, row in ipairs(found) do
  local info = {}
  for i = 1, #row, 2 do info[row[i]] = row[i + 1] end
  if info['name'] ~= ARGV[2] and info['pending'] == 0 and info['idle'] >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], info['name'])
    removed[#removed + 1] = info['name']
  end
end
return removed
