-- The top of the lists that changed.
-- KEYS  1 state   2 landmark of every list   3 segments by their last change
-- ARGV  1 rule   2 epoch known   3 sequence known   4 items per list   5 beginning of every list's key
--       6 … half-lives
-- Returns msgpack {facts, segments, changed}: facts {epoch, sequence, newest_ms, refused, µs since the last change},
-- empty for no counts of this rule; changed: {name, {{landmark_ms, {item, sum, …}} for every half-life}}.
local state, landmarks, changes = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', state, 'rule', 'epoch', 'sequence', 'newest_ms', 'refused', 'counted_us')
if known[1] ~= ARGV[1] or not known[3] then return cmsgpack.pack({{}, {}, {}}) end
local now = redis.call('TIME')
local age_us = tonumber(now[1]) * 1e6 + tonumber(now[2]) - tonumber(known[6])
local facts = {known[2], known[3], known[4], known[5] or '0', string.format('%.0f', age_us)}
local after = known[2] == ARGV[2] and ARGV[3] or '0'
local changed = {}
for _, name in ipairs(redis.call('ZRANGE', changes, '(' .. after, '+inf', 'BYSCORE')) do
  local lists = {}
  for at = 6, #ARGV do
    local field = ARGV[at] .. ':' .. name
    local items = redis.call('ZRANGE', ARGV[5] .. field, 0, tonumber(ARGV[4]) - 1, 'REV', 'WITHSCORES')
    lists[#lists + 1] = {redis.call('HGET', landmarks, field) or '0', items}
  end
  changed[#changed + 1] = {name, lists}
end
return cmsgpack.pack({facts, redis.call('ZRANGE', changes, 0, -1), changed})
