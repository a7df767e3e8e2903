-- Write down verdicts that switch nothing, each once.
--
-- KEYS[1]  pointer  hash    id of the release in force
-- KEYS[2…] verdicts stream  of the model of each verdict
--
-- ARGV[1]  keep     about how many verdicts a model keeps
-- ARGV[2]  recent   how many of the last ones are looked at for the same verdict
-- ARGV[3…] per verdict: at, verdict, version, over, reason
--
-- Answers how many were written. Asking for the lengths makes a key of the wrong type an error before the first write.

for i = 2, #KEYS do redis.call('XLEN', KEYS[i]) end
local release = redis.call('HGET', KEYS[1], 'id') or ''

local function known(key, at, verdict, version)
  for _, entry in ipairs(redis.call('XREVRANGE', key, '+', '-', 'COUNT', ARGV[2])) do
    local field = {}
    for i = 1, #entry[2], 2 do field[entry[2][i]] = entry[2][i + 1] end
    if field.at == at and field.verdict == verdict and field.version == version then return true end
  end
  return false
end

local written = 0
for i = 2, #KEYS do
  local at = 3 + (i - 2) * 5
  if not known(KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2]) then
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[1], '*', 'at', ARGV[at], 'verdict', ARGV[at + 1],
      'version', ARGV[at + 2], 'over', ARGV[at + 3], 'reason', ARGV[at + 4], 'release', release)
    written = written + 1
  end
end
return written
