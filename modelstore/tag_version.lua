-- Set and remove tags of one version: all of it or nothing.
--
-- KEYS[1…13], ARGV[1…5] as in `index.lua`
--
-- ARGV[6]   limit    tags that a version may have
-- ARGV[7]   removed  how many keys of tags to remove follow
-- then      them, and key, value, … of those to set
--
-- Answers {word, how many tags it would have}: MISSING, FULL, OK. If nothing is taken away or replaced, the first write is
-- one that a full memory denies; else it frees some.

if redis.call('HEXISTS', KEYS[12], 'name') == 0 then return {'MISSING', 0} end
look()
local tags, count, removed = {}, 0, tonumber(ARGV[7])
local own = redis.call('HGETALL', KEYS[13])
for i = 1, #own, 2 do tags[own[i]], count = own[i + 1], count + 1 end
local after = {}
for key, value in pairs(tags) do after[key] = value end
for i = 8, 7 + removed do after[ARGV[i]] = nil end
for i = 8 + removed, #ARGV, 2 do after[ARGV[i]] = ARGV[i + 1] end
local size = 0
for _ in pairs(after) do size = size + 1 end
if size > count and size > tonumber(ARGV[6]) then return {'FULL', size} end
for key, value in pairs(after) do
  each_tag(key, value, function(tag) redis.call('SCARD', ARGV[3] .. tag) end)
end

local row = row_of()
for key, value in pairs(tags) do
  if after[key] ~= value then
    redis.call('HDEL', KEYS[13], key)
    if row then each_tag(key, value, unlink, row) end
  end
end
for key, value in pairs(after) do
  if tags[key] ~= value then
    redis.call('HSET', KEYS[13], key, value)
    if row then each_tag(key, value, link, row) end
  end
end
return {'OK', size}
