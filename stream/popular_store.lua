-- Adds the counts of a batch to the lists, exactly once: all of it or, where a position differs, nothing.
-- KEYS  1 state   2 segments by newest event time   3 landmark of every list   4 segments by their last change
-- ARGV  1 rule   2 epoch, of counts that begin now   3 items kept per list   4 most segments
--       5 segments whose newest event is this old (ms) may make room   6 beginning of every list's key
--       7 landmarks' distance in half-lives   8 batch, msgpack: {positions, newest_ms, segments}:
--         positions: {place, expected next offset, new one}; segments: {name, events, newest_ms, items, lists};
--         lists: {half-life, landmark_ms, ms between landmarks, weights}
-- Returns nothing when applied, else what is recorded at each of the positions, or -1 for counts of another rule.
local state, recent, landmarks, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local keep, prefix = tonumber(ARGV[3]), ARGV[6]
local batch = cmsgpack.unpack(ARGV[8])
local positions, newest_ms, segments = batch[1], batch[2], batch[3]

local rule = redis.call('HGET', state, 'rule')
if rule and rule ~= ARGV[1] then return {-1} end
local recorded, differs = {}, false
for at, position in ipairs(positions) do
  recorded[at] = tonumber(redis.call('HGET', state, 'p:' .. position[1]) or 0)
  differs = differs or recorded[at] ~= position[2]
end
if differs then return recorded end

redis.call('HSETNX', state, 'rule', ARGV[1])
redis.call('HSETNX', state, 'epoch', ARGV[2])
for _, position in ipairs(positions) do
  redis.call('HSET', state, 'p:' .. position[1], string.format('%.0f', position[3]))
end
if #segments == 0 then return {} end

local before_ms = tonumber(redis.call('HGET', state, 'newest_ms') or 0)
newest_ms = math.max(newest_ms, before_ms)
local now = redis.call('TIME')
local now_us = now[1] .. string.format('%06d', now[2])
redis.call('HSET', state, 'newest_ms', string.format('%.0f', newest_ms), 'counted_us', now_us)

local function forget(name, lists)
  for _, list in ipairs(lists) do
    local field = list[1] .. ':' .. name
    redis.call('UNLINK', prefix .. field)
    redis.call('HDEL', landmarks, field)
  end
  redis.call('ZREM', recent, name)
  redis.call('ZREM', changes, name)
end

local function has_room(name, lists)
  if name == '' or redis.call('ZSCORE', recent, name) then return true end
  if redis.call('ZCARD', recent) < tonumber(ARGV[4]) then return true end
  local since = string.format('(%.0f', newest_ms - tonumber(ARGV[5]))
  local idle = redis.call('ZRANGE', recent, '-inf', since, 'BYSCORE', 'LIMIT', 0, 1)
  if #idle == 0 then return false end
  forget(idle[1], lists)
  return true
end

-- Many at once: a call for each item would take twice as long, and as much again in the append-only file.
local function add(key, items, weights, factor)
  local least = 1e-290  -- smaller ones are nothing, and a text that names a denormal number may be refused
  if redis.call('ZCARD', key) >= keep then
    least = math.max(least, tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]))
  end
  for first = 1, #items, 1000 do
    local last = math.min(first + 999, #items)
    local sums, changed = redis.call('ZMSCORE', key, unpack(items, first, last)), {}
    for at = first, last do
      local sum = tonumber(sums[at - first + 1] or 0) + weights[at] * factor
      if sum >= least then
        changed[#changed + 1], changed[#changed + 2] = string.format('%.17g', sum), items[at]
      end
    end
    if #changed > 0 then redis.call('ZADD', key, unpack(changed)) end
  end
  local excess = redis.call('ZCARD', key) - keep
  if excess > 0 then redis.call('ZREMRANGEBYRANK', key, 0, excess - 1) end
end

for _, segment in ipairs(segments) do
  local name, items, lists = segment[1], segment[4], segment[5]
  if has_room(name, lists) then
    for _, list in ipairs(lists) do
      local field = list[1] .. ':' .. name
      local key, landmark, weights = prefix .. field, list[2], list[4]
      local held = tonumber(redis.call('HGET', landmarks, field) or landmark)
      local ahead = math.floor((landmark - held) / list[3] + 0.5)
      local factor = 1
      if ahead < 0 then
        factor = 2 ^ (ahead * tonumber(ARGV[7]))
      elseif ahead == 1 then
        redis.call('ZUNIONSTORE', key, 1, key, 'WEIGHTS', string.format('%.17g', 2 ^ -tonumber(ARGV[7])))
      elseif ahead > 1 then  -- what is left is nothing beside a single event of today
        redis.call('DEL', key)
      end
      redis.call('HSET', landmarks, field, string.format('%.0f', math.max(landmark, held)))
      add(key, items, weights, factor)
    end
    if name ~= '' then redis.call('ZADD', recent, 'GT', string.format('%.0f', segment[3]), name) end
    redis.call('ZADD', changes, redis.call('HINCRBY', state, 'sequence', 1), name)
  else
    redis.call('HINCRBY', state, 'refused', segment[2])
  end
end
return {}
