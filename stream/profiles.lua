-- Applies events to one user's profile, each exactly once.
-- KEYS  1 hash of positions, counters, attributes   2 history, sorted by time   3 consumed items, sorted by time
--       4 hash (request, item, kind) that are in the history
-- ARGV  1 place "<incarnation>:<partition>"   2 history length   3 consumed length   4 events, msgpack:
--       a list of {offset, ordinal, ts_ms, kind, flags, item, request, member}; flags: 1 = history, 2 = consumed
--       5 wall time that a profile is kept after its last event, ms; 0 = for ever
local place, field = ARGV[1], 'p:' .. ARGV[1]
local stored, attributes = unpack(redis.call('HMGET', KEYS[1], field, 'attributes'))
local last_offset, last_ordinal = -1, -1
if stored then
  local cut = string.find(stored, ':', 1, true)
  last_offset, last_ordinal = tonumber(string.sub(stored, 1, cut - 1)), tonumber(string.sub(stored, cut + 1))
end
local counters, applied, new = {}, 0, {0, 0, 0, 0}  -- new: members by key
for _, event in ipairs(cmsgpack.unpack(ARGV[4])) do
  local offset, ordinal, ts, kind, flags = event[1], event[2], event[3], event[4], event[5]
  if offset > last_offset or (offset == last_offset and ordinal > last_ordinal) then
    last_offset, last_ordinal, applied = offset, ordinal, applied + 1
    counters[kind] = (counters[kind] or 0) + 1
    local item, request, member, score = event[6], event[7], event[8], string.format('%.0f', ts)
    if flags % 2 == 1 then
      local once = request .. '\0' .. item .. '\0' .. kind
      local first = request ~= '' and redis.call('HSETNX', KEYS[4], once, 1) or 0
      if request == '' or first == 1 then
        new[2], new[4] = new[2] + redis.call('ZADD', KEYS[2], score, member), new[4] + first
      end
    end
    if flags >= 2 then new[3] = new[3] + redis.call('ZADD', KEYS[3], 'GT', score, item) end
  end
end
if applied == 0 then return 0 end
local at = string.format('%.0f:%.0f', last_offset, last_ordinal)
redis.call('HSET', KEYS[1], field, at, 'position', place .. ':' .. at)
for kind, count in pairs(counters) do redis.call('HINCRBY', KEYS[1], 'n:' .. kind, count) end
local history, consumed = redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3])

local kept_ms = tonumber(ARGV[5])
if kept_ms > 0 then
  -- All go in the same millisecond: a position never goes before the history it stands for. Attributes keep the
  -- hash, and the positions in it say that what is forgotten was applied. Renewed when a sixteenth is over, for
  -- every command is written to the append-only file; at once where a key has only just begun.
  local due = new[2] > 0 and new[2] == history or new[3] > 0 and new[3] == consumed
  due = due or new[4] > 0 and new[4] == redis.call('HLEN', KEYS[4])
  local told = attributes and (history > 0 and 2 or 3) or 1
  if due or redis.call('PTTL', KEYS[told]) < kept_ms then
    local now = redis.call('TIME')
    local at_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + kept_ms + kept_ms / 16)
    for at = attributes and 2 or 1, 4 do redis.call('PEXPIREAT', KEYS[at], at_ms) end
  end
end

local excess = history - tonumber(ARGV[2])
if excess > 0 then
  local gone = redis.call('ZPOPMIN', KEYS[2], excess)
  for i = 1, #gone, 2 do
    local parts = cjson.decode(string.sub(gone[i], 37))
    if parts[3] ~= '' then redis.call('HDEL', KEYS[4], parts[3] .. '\0' .. parts[1] .. '\0' .. parts[2]) end
  end
end
excess = consumed - tonumber(ARGV[3])
if excess > 0 then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, excess - 1) end
return applied
