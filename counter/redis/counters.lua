-- Calls on counters, one after the other, those of a cluster in one slot of it: each takes from all of its counters or from none, looks at
-- them, settles, gives back, renews, or restores. docs/redis.md says what a value looks like. A call does all its reading before its
-- first write, so one that fails changes nothing; but for a set of leases in use of another type, which is found when it is written,
-- before any value: then sets before it have changed.
--
-- KEYS: for each call the values, then for each of its counters of slots, in their order, the set of its leases, and of its settled ones
-- if the call settles or renews; if it restores, for each counter what was restored. ARGV: the calls. Each is its mode, the number of its
-- keys, and of its values, whether the take is final, now, expiry, lease, then for each value the number of its counters, and for each of
-- these, ascending, its name, where now lies (the end of a window, or a sub-window), an amount and a ceiling. The answer has for each call
-- an error, or for a take or a look the status, then for each counter what it holds and a time.
local read, write, sub, rep, floor, max, min = struct.unpack, struct.pack, string.sub, string.rep, math.floor, math.max, math.min

local TAKE, LOOK, SETTLE, GIVEBACK, RENEW, RESTORE = 1, 2, 3, 4, 5, 6
local INUSE, NONE = 6, 1099511627776 -- no name is that large
local MAX = 9007199254740991
local FEW, MANY = 64, 65535      -- leases in a value; the number that says they are in a set
local GRACE = 60                 -- seconds for which a counter outlives its window: more than two clocks can lie apart
local SLACK = 30                 -- seconds that a value lives longer, so that its life need not be set anew by each call
local REMEMBER = 20              -- seconds for which a renewal knows that its lease was settled
local SWEPT = 4                  -- settled leases that are forgotten at once: more than come with one settlement
local DOUBT = 100000             -- in microseconds: how long a take that is not final may be given back

-- Of the call: what it says, and where its keys begin.
local arg, mode, keys, values, final, now, expiry, lease, begin, second
local base = 0
-- What is found out, and what is to be done when everything has been read: nothing may be written before.
local ok, doubtful, looking, late

-- The time of Redis, which is one for all: the clocks of those who call may lie further apart than a doubt lasts.
local function redistime()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- For how many seconds more a record can matter. One that lies in the future, because a clock was wrong, matters for no longer
-- than if it began now: so it is forgotten once nobody takes from it any more.
local function life(kind, a, last)
  if kind == INUSE then
    return (max(last, a + REMEMBER * 1000000) - max(now, a)) / 1000000
  end
  if kind > INUSE then
    local length = kind == 7 and 1 or kind == 8 and 60 or 3600
    return min((a + 17) * length / 16 - second, length * 17 / 16)
  end
  local unit = kind == 2 and 60 or kind == 3 and 3600 or kind == 4 and 86400 or kind == 5 and 2678400 or 1
  return min(a - second, unit)
end

-- The leases in s that expire after t, how many they are, and when the first does.
local function sweep(s, t)
  local kept, from, first = '', 1, 0
  for o = 1, #s, 16 do
    local e = read('<I8', s, o + 8)
    if e <= t then
      kept, from = kept .. sub(s, from, o - 1), o + 16
    elseif first == 0 or e < first then
      first = e
    end
  end
  kept = kept .. sub(s, from)
  return kept, #kept / 16, first
end

local function place(s, id)
  local o = 1
  repeat
    o = string.find(s, id, o, true)
    if not o or o % 16 == 1 then
      return o
    end
    o = o + 1
  until false
end

-- Adds n to sub-window at of the ring in v at q, whose newest is a and whose sum is b; a is nil where there is none.
local function put(v, q, a, b, at, n)
  local d = a and at - a or 17
  if d >= 17 then
    return at, n, write('<I8', n) .. rep('\0', 128)
  end
  if d > 0 then
    for o = q + 8 * (17 - d), q + 128, 8 do
      b = b - read('<I8', v, o)
    end
    n = min(n, MAX - b)
    return at, b + n, write('<I8', n) .. rep('\0', 8 * (d - 1)) .. sub(v, q, q + 8 * (17 - d) - 1)
  end
  local o = q - 8 * d
  local c = read('<I8', v, o)
  n = max(min(n, MAX - b), -c)
  return a, b + n, sub(v, q, o - 1) .. write('<I8', c + n) .. sub(v, o + 8, q + 135)
end

-- The sub-window that must be gone for no more than most to be left of what counts at current.
local function gone(v, q, a, current, most)
  local sum = 0
  for s = a, current - 16, -1 do
    sum = sum + read('<I8', v, q + 8 * (a - s))
    if sum > most then
      return s
    end
  end
  return current
end

-- What a counter of a sliding window holds and when that changes, what becomes of its record, and its newest sub-window.
local function slide(name, v, q, a, b, at, n, most)
  local used, time, record = 0, at, nil
  if mode > LOOK then
    if n ~= 0 and not (a and a - at >= 17) and (n > 0 or a and at <= a) then
      local sum, ring
      a, sum, ring = put(v, q, a, b, at, n)
      record = write('<I5I8I8', name, a, sum) .. ring
    end
    return used, time, record, a
  end
  time = a and max(a, at) or at
  if a and time - a < 17 then
    used = b
    for o = q + 8 * (17 - time + a), q + 128, 8 do
      used = used - read('<I8', v, o)
    end
  end
  local ceiling = 0
  if n > 0 and n > most - used then
    ok, ceiling = false, max(most - n, 0)
  elseif n > 0 and not looking then
    local sum, ring
    a, sum, ring = put(v, q, a, b, time, n)
    return used, time, write('<I5I8I8', name, a, sum) .. ring, a
  end
  return used, a and gone(v, q, a, time, ceiling) or time, nil, a
end

-- The same for a counter of slots, whose leases are in own, or in a set if they are many.
local function hold(name, own, clock, first, last, leases, n, most, set, settled)
  local t = max(now, clock)
  local many, used, change = leases == MANY, 0, n ~= 0
  if mode <= LOOK then
    if many then
      used = ask('ZCOUNT', set, '(' .. string.format('%.0f', t), '+inf')
    elseif t < first then
      used = leases
    elseif leases > 0 then
      local _
      _, used = sweep(own, t)
    end
    local fits = n <= 0 or n <= most - used
    ok, change = ok and fits, n > 0 and fits and not looking
  elseif mode == RENEW then
    local at = ask('ZSCORE', settled, lease)
    change = not at or t - at >= REMEMBER * 1000000
  elseif mode == SETTLE then
    -- A few at a time: how long a settlement takes must not depend on how many others came before.
    local old = ask('ZRANGEBYSCORE', settled, '-inf', t - REMEMBER * 1000000, 'LIMIT', 0, SWEPT)
    if #old == SWEPT then
      late[#late + 1] = {'ZREM', settled, unpack(old)}
    end
    late[#late + 1] = {'ZADD', settled, t, lease}
    late[#late + 1] = {'PEXPIRE', settled, (REMEMBER + GRACE) * 1000}
  end
  if not change then
    return used, 0, nil, clock, last
  end

  local adds, ends = mode == TAKE or mode == RENEW, expiry + t - now
  if not many then
    local o = mode ~= TAKE and place(own, lease)
    if o then
      ends = max(ends, (read('<I8', own, o + 8)))
      own, leases = sub(own, 1, o - 1) .. sub(own, o + 16), leases - 1
    end
    if t >= first then
      own, leases, first = sweep(own, t)
    end
    if adds and leases == FEW then
      for o = 1, #own, 16 do
        late[#late + 1] = {'ZADD', set, read('<I8', own, o + 8), sub(own, o, o + 7)}
      end
      own, leases, many = '', MANY, true
    end
  end
  if adds then
    last = max(last, ends)
  end
  if not many then
    if adds then
      own, leases = own .. lease .. write('<I8', ends), leases + 1
      first = leases == 1 and ends or min(first, ends)
    end
  else
    if adds then
      late[#late + 1] = {'ZADD', set, 'GT', ends, lease}
      late[#late + 1] = {'PEXPIRE', set, floor((last - t) / 1000) + GRACE * 1000}
    else
      late[#late + 1] = {'ZREM', set, lease}
    end
    if floor(t / 1000000) ~= floor(clock / 1000000) then -- now and then
      late[#late + 1] = {'ZREMRANGEBYSCORE', set, '-inf', t}
    end
  end
  return used, 0, write('<I5I8I8I8I2', name, t, first, last, leases) .. own, t, last
end

-- What is to be charged of n that was seen of a counter, of which used is left. In each life, which stands where the lease does
-- otherwise, whoever restores adds what those before did not see. What an empty store has counted anew comes on top; what another holds
-- when it is first restored may be part of what was seen.
local function forgotten(key, used, at, n)
  local v, before = ask('GET', key), used
  if v and #v == 16 and sub(v, 1, 8) == lease then
    before = read('<I8', v, 9)
  elseif final == 1 then
    before = 0
  end
  late[#late + 1] = {'SET', key, lease .. write('<I8', max(before, n)), 'PX', floor((at - second + GRACE) * 1000)}
  return max(n - before, 0)
end

local function make()
  ok, doubtful, looking, late = true, false, mode == LOOK, {}
  local held, made, lives = {}, {}, {}
  for k = 1, values do
    local v = ask('GET', KEYS[base + k])
    if v and (#v < 19 or string.byte(v) ~= 1) then
      unreadable(KEYS[base + k])
    end
    held[k] = v or '\1' .. rep('\0', 18) -- version, time of the last take that was not final, until when it lives and when that was set
  end

  local out
  repeat
    local p, sets = begin, values
    out = ''
    local again = false
    for k = 1, values do
      local v, key = held[k], KEYS[base + k]
      local size, doubt, alive, since, q = #v, read('<I8I5I5', v, 2)
      local new, from, changed, lasting = '', q, false, 0
      local count
      count, p = read('B', arg, p)
      local name, kind, a, b, last, leases, after -- of the record at q
      local want, at, n, most -- of the caller
      while true do
        if not name then
          if q > size then
            name = NONE
          else
            if size - q < 20 then
              unreadable(key)
            end
            name, a, b = read('<I5I8I8', v, q)
            kind, after = name % 256, q + 21
            if kind > INUSE then
              after = q + 157
            elseif kind == INUSE then
              if size - q < 30 then
                unreadable(key)
              end
              last, leases = read('<I8I2', v, q + 21)
              after = q + 31 + (leases == MANY and 0 or 16 * leases)
            end
            if after > size + 1 or kind == 0 or kind > 9 then
              unreadable(key)
            end
          end
        end
        if not want then
          if count == 0 then
            want = NONE
          else
            count = count - 1
            want, at, n, most, p = read('<I5I8i8I8', arg, p)
          end
        end

        if name < want then -- a counter that the call does not speak of
          local left = life(kind, a, last)
          if left <= -GRACE then
            new, from = new .. sub(v, from, q - 1), after
          else
            lasting = max(lasting, left)
          end
          name, q = nil, after
        elseif want == NONE then
          break
        else
          local have, c, record = name == want, want % 256, nil
          local a, b, last, leases = a, b, last, leases
          if not have then -- those are of a later record
            a, b, last, leases = nil, 0, 0, 0
          end
          local used, time = 0, at
          if c < INUSE then
            if have and a >= at then
              used, time = b, a
            end
            if mode <= LOOK then
              if n > 0 then
                if n > most - used then
                  ok = false
                elseif not looking then
                  a, record = time, write('<I5I8I8', want, time, used + n)
                end
              end
            else
              if mode == RESTORE then
                sets = sets + 1
                n = time == at and forgotten(KEYS[base + sets], used, at, n) or 0
              end
              if have and a == at or n > 0 and time == at then
                a, record = at, write('<I5I8I8', want, at, n > MAX - used and MAX or max(used + n, 0))
              end
            end
          elseif c > INUSE then
            used, time, record, a = slide(want, v, q + 21, a, b, at, n, most)
          else
            local settled
            sets = sets + 1
            local set = KEYS[base + sets]
            if mode == SETTLE or mode == RENEW then
              sets = sets + 1
              settled = KEYS[base + sets]
            end
            local own = have and sub(v, q + 31, after - 1) or ''
            used, time, record, a, last = hold(want, own, a or 0, b, last, leases, n, most, set, settled)
          end
          if mode <= LOOK then
            out = out .. write('<I8I8', used, time)
          end
          if record then
            new, changed = new .. sub(v, from, q - 1) .. record, true
            from = have and after or q
          end
          if (have or record) and (c >= INUSE or a - second > lasting) then
            lasting = max(lasting, life(c, a, last))
          end
          if have then
            name, q = nil, after
          end
          want = nil
        end
      end
      doubtful = doubtful or mode == TAKE and not ok and doubt > 0 and doubt > redistime() - DOUBT
      if changed then
        if mode == TAKE and final == 0 then
          doubt = redistime()
        end
        if second + lasting + GRACE > alive or since > second + GRACE then -- or by a clock that was wrong
          alive, since = floor(second + lasting + GRACE) + SLACK, floor(second)
          lives[k] = (lasting + GRACE + SLACK) * 1000
        end
        made[k] = write('<BI8I5I5', 1, doubt, alive, since) .. new .. sub(v, from)
      end
    end
    if mode == TAKE and not ok and not looking then
      looking, again = true, true
    end
  until not again

  if mode <= LOOK and not ok then
    return (doubtful and '\2' or '\0') .. out
  end
  for i = 1, #late do
    ask(unpack(late[i]))
  end
  for k = 1, values do
    if made[k] then
      if lives[k] then
        ask('SET', KEYS[base + k], made[k], 'PX', floor(lives[k]))
      else
        ask('SET', KEYS[base + k], made[k], 'KEEPTTL')
      end
    end
  end
  return mode <= LOOK and '\1' .. out or ''
end

local answers = {}
for i = 1, #ARGV do
  arg = ARGV[i]
  mode, keys, values, final, now, expiry, lease, begin = read('<BI2BBI8I8c8', arg)
  second = now / 1000000
  answers[i] = try(make)
  base = base + keys
end
return answers
