-- Failures of subjects, or ends of their blocks, one after the other. docs/redis.md says what the value looks like.
--
-- KEYS: for each call the value of the subject, and the set of all blocks. ARGV: the calls. Each is its mode, now, window, length of a block,
-- most failures, subject, and the channel that blocks are told in. The answer has for each an error, or the outcome, and the block if one
-- is in force.
local read, write, sub, floor, max, min = struct.unpack, struct.pack, string.sub, math.floor, math.max, math.min

local FAIL, LIFT = 1, 2
local IGNORED, COUNTED, BLOCKED = '\0', '\1', '\2'
local GRACE = 10000  -- milliseconds for which what is over is kept: more than two clocks can lie apart
local MAX = 9007199254740991
local FAR = 60000000 -- microseconds: what lies further ahead is of a clock that was wrong, and does not count

local function make(call, value, blocks)
  local mode, now, window, length, most, subject, rest = read('<BI8I8I8I4c25', call)
  local channel = sub(call, rest)
  local v = ask('GET', value)
  if v and (#v < 21 or string.byte(v) ~= 1) then
    unreadable(value)
  end
  local since, ends, failures, times = 0, 0, 0, ''
  if v then
    since, ends, failures = read('<I8I8I4', v, 2)
    times = sub(v, 22)
    if max(since, times == '' and 0 or (read('<I8', times, #times - 7))) > now + FAR then
      since, ends, failures, times = 0, 0, 0, ''
    end
  end

  local function block()
    return subject .. write('<I8I8I4', since, ends, failures)
  end

  if mode == LIFT then
    local lifted = now < ends
    for _, b in ipairs(ask('ZRANGEBYSCORE', blocks, '(' .. string.format('%.0f', now), '+inf')) do
      if sub(b, 1, #subject) == subject then
        ask('ZREM', blocks, b)
        lifted = true
      end
    end
    if not lifted then
      return IGNORED
    end
    ask('DEL', value)
    ask('PUBLISH', channel, IGNORED .. block())
    return COUNTED
  end

  if now < ends then
    return IGNORED .. block()
  end
  local at, first = now, 1
  if times ~= '' then
    at = max(now, (read('<I8', times, #times - 7)))
    while first <= #times and read('<I8', times, first) < at - window do
      first = first + 8
    end
  end
  times = sub(times, first) .. write('<I8', at)
  if #times / 8 <= most then
    ask('SET', value, write('<BI8I8I4', 1, 0, 0, 0) .. times, 'PX', floor(window / 1000) + GRACE)
    return COUNTED
  end

  since, ends, failures = at, at + length, #times / 8
  local time = redis.call('TIME')
  local past = min(now, time[1] * 1000000) -- a clock that is ahead must not forget the blocks of others
  ask('ZREMRANGEBYSCORE', blocks, '-inf', past - GRACE * 1000) -- first: if the key is of another type, nothing has changed
  ask('SET', value, write('<BI8I8I4', 1, since, ends, failures), 'PX', floor((ends - now) / 1000) + GRACE)
  ask('ZADD', blocks, ends, block())
  local last = ask('ZRANGE', blocks, -1, -1, 'WITHSCORES')[2]
  ask('PEXPIRE', blocks, floor((min(last, MAX) - past) / 1000) + GRACE)
  ask('PUBLISH', channel, BLOCKED .. block())
  return BLOCKED .. block()
end

local answers = {}
for i = 1, #ARGV do
  answers[i] = try(make, ARGV[i], KEYS[2 * i - 1], KEYS[2 * i])
end
return answers
