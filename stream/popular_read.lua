-- The top of the lists that changed, some segments at a time: the store answers nobody else meanwhile.
-- KEYS  1 state   2 landmark of every list   3 segments by their last change
-- ARGV  1 rule   2 epoch known   3 sequence known   4 most segments   5 items per list
--       6 beginning of every list's key   7 … half-lives
-- Returns msgpack {facts, segments, changed}: facts {epoch, sequence read, whether that is all, newest_ms, refused,
-- µs since the last change}, empty for no counts of this rule; segments: all that there are; changed: {name,
-- {{landmark_ms, items, sums} for every half-life}}.
local state, landmarks, changes = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', state, 'rule', 'epoch', 'sequence', 'newest_ms', 'refused', 'counted_us')
if known[1] ~= ARGV[1] or not known[3] then return cmsgpack.pack({{}, {}, {}}) end

local after = known[2] == ARGV[2] and ARGV[3] or '0'
local page = redis.call('ZRANGE', changes, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[4], 'WITHSCORES')
local changed = {}
for at = 1, #page, 2 do
  local name, lists = page[at], {}
  for half_life = 7, #ARGV do
    local field = ARGV[half_life] .. ':' .. name
    local top = redis.call('ZRANGE', ARGV[6] .. field, 0, tonumber(ARGV[5]) - 1, 'REV', 'WITHSCORES')
    local items, sums = {}, {}
    for place = 1, #top, 2 do
      items[#items + 1], sums[#sums + 1] = top[place], tonumber(top[place + 1])
    end
    lists[#lists + 1] = {tonumber(redis.call('HGET', landmarks, field) or 0), items, sums}
  end
  changed[#changed + 1] = {name, lists}
end

local all = #changed < tonumber(ARGV[4])
local sequence = all and known[3] or page[#page]
local now = redis.call('TIME')
local age_us = tonumber(now[1]) * 1e6 + tonumber(now[2]) - tonumber(known[6])
local facts = {known[2], sequence, all and '1' or '0', known[4], known[5] or '0', string.format('%.0f', age_us)}
return cmsgpack.pack({facts, redis.call('ZRANGE', changes, 0, -1), changed})
