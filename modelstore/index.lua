-- The kept index of versions, for the scripts that this stands before. What the index is: `modelstore.index`.
--
-- KEYS[1]   index     hash    format, rows (rows given, free ones included), removed (how often one was freed)
-- KEYS[2]   free      list    rows of removed versions
-- KEYS[3]   datasets  hash    dataset -> code
-- KEYS[4]   targets   hash    target -> code
-- KEYS[5]   metrics   hash    metric -> how many versions have it
-- KEYS[6]   tags      hash    tag -> how many versions have it
-- KEYS[7…11]          string  columns: digest, created, trained_through, dataset, target
-- KEYS[12]  version   hash    the version that the call is about; its field `row`
-- KEYS[13]  own tags  hash    its tags
--
-- ARGV[1]   format of the index
-- ARGV[2]   metric    beginning of the keys of metrics' columns
-- ARGV[3]   tagged    beginning of the keys of tags' sets
-- ARGV[4]   raw       the version's digest, 32 bytes
-- ARGV[5]   most      metrics that have a column
--
-- Keys of metrics and tags are made here, from their beginnings: only the script sees which the version has. They have the
-- hash tag of all others.

local EMPTY = string.rep('\0', 32)

-- Look at every key, so that one of the wrong type is an error before the first write.
local function look()
  for _, at in ipairs({1, 3, 4, 5, 6, 13}) do redis.call('HLEN', KEYS[at]) end
  for at = 7, 11 do redis.call('STRLEN', KEYS[at]) end
  redis.call('LLEN', KEYS[2])
end

-- The row of the version, or nil if the index lacks it: the row's digest decides, so that an index that was dropped has
-- no rows, whatever versions say.
local function row_of()
  local row = redis.call('HGET', KEYS[12], 'row')
  row = row and tonumber(row)
  if row and redis.call('GETRANGE', KEYS[7], row * 32, row * 32 + 31) == ARGV[4] then return row end
end

local function link(tag, row)
  if redis.call('SADD', ARGV[3] .. tag, row) == 1 then redis.call('HINCRBY', KEYS[6], tag, 1) end
end

local function unlink(tag, row)
  if redis.call('SREM', ARGV[3] .. tag, row) == 1 and redis.call('HINCRBY', KEYS[6], tag, -1) <= 0 then
    redis.call('HDEL', KEYS[6], tag)
  end
end

-- A tag is found by its key, and by key and value.
local function each_tag(key, value, act, row)
  act(key, row)
  if value ~= '' then act(key .. '=' .. value, row) end
end

local function code_of(key, word)
  local code = redis.call('HGET', key, word)
  if not code then
    code = redis.call('HLEN', key) + 1
    redis.call('HSET', key, word, code)
  end
  return struct.pack('<I4', code)
end

-- Give the version a row, unless the index is of another format and has to be made anew first. `trained` and the metrics'
-- values are cells of 8 bytes; `metrics` is {name, cell, …}.
local function add_row(created, dataset, target, trained, metrics)
  local format = redis.call('HGET', KEYS[1], 'format')
  if format and format ~= ARGV[1] then return end
  redis.call('HSET', KEYS[1], 'format', ARGV[1])
  local row = redis.call('LPOP', KEYS[2]) or redis.call('HINCRBY', KEYS[1], 'rows', 1) - 1
  redis.call('SETRANGE', KEYS[7], row * 32, ARGV[4])
  redis.call('SETRANGE', KEYS[8], row * 8, struct.pack('<d', created))
  redis.call('SETRANGE', KEYS[9], row * 8, trained)
  redis.call('SETRANGE', KEYS[10], row * 4, code_of(KEYS[3], dataset))
  redis.call('SETRANGE', KEYS[11], row * 4, code_of(KEYS[4], target))
  for i = 1, #metrics, 2 do
    local known = redis.call('HEXISTS', KEYS[5], metrics[i]) == 1
    if known or redis.call('HLEN', KEYS[5]) < tonumber(ARGV[5]) then
      redis.call('HINCRBY', KEYS[5], metrics[i], 1)
      redis.call('SETRANGE', ARGV[2] .. metrics[i], row * 8, metrics[i + 1])
    end
  end
  local tags = redis.call('HGETALL', KEYS[13])
  for i = 1, #tags, 2 do each_tag(tags[i], tags[i + 1], link, row) end
  redis.call('HSET', KEYS[12], 'row', row)
end

-- Take the version's row out of the index. An empty digest marks a free row; other cells are emptied as far as a search
-- could take them for true.
local function free_row(row)
  redis.call('SETRANGE', KEYS[7], row * 32, EMPTY)
  for at = 8, 9 do redis.call('SETRANGE', KEYS[at], row * 8, string.sub(EMPTY, 1, 8)) end
  for at = 10, 11 do redis.call('SETRANGE', KEYS[at], row * 4, string.sub(EMPTY, 1, 4)) end
  for _, name in ipairs(redis.call('HKEYS', KEYS[5])) do
    local key, nothing = ARGV[2] .. name, string.sub(EMPTY, 1, 8)
    local cell = redis.call('GETRANGE', key, row * 8, row * 8 + 7)
    if cell ~= '' and cell ~= nothing then
      redis.call('SETRANGE', key, row * 8, nothing)
      if redis.call('HINCRBY', KEYS[5], name, -1) <= 0 then
        redis.call('HDEL', KEYS[5], name)
        redis.call('DEL', key)
      end
    end
  end
  local tags = redis.call('HGETALL', KEYS[13])
  for i = 1, #tags, 2 do each_tag(tags[i], tags[i + 1], unlink, row) end
  redis.call('RPUSH', KEYS[2], row)
  redis.call('HINCRBY', KEYS[1], 'removed', 1)
end

