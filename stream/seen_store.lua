-- Adds to seen sets; adding the same again changes nothing.
-- KEYS  a key for each entry of ARGV[1]
-- ARGV  1 msgpack, a list of {0, expire_ms, kept_ms, most items, {time, item, …}} for an exact set, or
--         {1, expire_ms, generation, {bit, …}, bytes} for a slot of a Bloom filter: 16 digits that say which
--         generation is in it, then so many bytes of bits. Bits are texts, counted from the digits' first: Lua
--         takes long over making texts of numbers.
-- Returns how many items were dropped because a set was full.
local most_arguments, dropped = 2000, 0

-- At once, but for what the stack of Lua does not hold.
local function call(command, key, option, arguments)
  for first = 1, #arguments, most_arguments do
    local last = math.min(first + most_arguments - 1, #arguments)
    if option then
      redis.call(command, key, option, unpack(arguments, first, last))
    else
      redis.call(command, key, unpack(arguments, first, last))
    end
  end
end

for at, set in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key = KEYS[at]
  if set[1] == 0 then
    local kept_ms, most = set[3], set[4]
    call('ZADD', key, 'GT', set[5])
    if kept_ms > 0 then
      local newest_ms = tonumber(redis.call('ZRANGE', key, 0, 0, 'REV', 'WITHSCORES')[2])
      redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.0f', newest_ms - kept_ms))
      redis.call('PEXPIRE', key, string.format('%.0f', set[2]))
    end
    local excess = redis.call('ZCARD', key) - most
    if excess > 0 then dropped = dropped + redis.call('ZREMRANGEBYRANK', key, 0, excess - 1) end
  else
    local generation = set[3]
    local held = tonumber(redis.call('GETRANGE', key, 0, 15)) or -1
    if held <= generation then
      if held < generation then
        -- Of its full length at once: a string that grows bit by bit is given twice the room.
        local empty = string.format('%016.0f', generation) .. string.rep('\0', set[5])
        redis.call('SET', key, empty, 'PX', string.format('%.0f', set[2]))
      end
      local arguments = {}
      for place, bit in ipairs(set[4]) do
        local before = 4 * place
        arguments[before - 3], arguments[before - 2] = 'SET', 'u1'
        arguments[before - 1], arguments[before] = bit, '1'
      end
      call('BITFIELD', key, nil, arguments)
    end
  end
end
return dropped
