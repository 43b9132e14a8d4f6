-- The live ledger: every admission, checkpoint and settlement is one operation of this script, and so is atomic.
-- ARGV: who calls (a process of the data plane; "" for none), how long it counts as alive (ms; -1: it is dead), the month
-- (UTC, as 202611), records of settled requests (JSON, a line each; "": none), then any number of operations, an argument
-- each: its name and its own arguments, separated by NUL. Admissions and settlements come packed (see `packed_ops`),
-- since each argument of a call costs a third of a microsecond, and so does each string as long as a record, which Lua
-- hashes and keeps. The answer is one string: a line for each operation, whose fields are separated by tabs. (A table in
-- a table would cost Redis 6 a write to the socket for each.)
--
--   counters:<subject>  string  the row, up to 16 numbers (big-endian doubles), -1 for no limit: on 1 or 0; ver version of its
--                          rights; pl gl limits; pu gu used; pr gr reserved; rm requests per minute, rw the minute
--                          that rn counts the requests of; tm td tM tokens per minute, day, month; so requests at once,
--                          n how many there are, counted while so is set.
--                          A subject is a user (its id) or an API key ("k" and its id). A request with a key holds of
--                          both, unless the key has no limit at all.
--                          Reading and writing a number costs more than what is done with it, so a row ends where it
--                          may: a key's without any limit after ver, a subject's without the limits tm to so after rn.
--                          "" in the place of a key: none.
--   win:<subject>:<m|d|M><number>    tokens used and reserved in that minute, day, month (UTC)
--   ended:<session>  string  that session's access tokens count no more
--   running:<process>   hash  request -> what it holds and what its record will say: see `opened`
--   alive            zset  process -> when it is taken for silent, ms; 0: it is known to be dead
--   silent           zset  process -> when it was first seen to be silent, ms
--   outbox           list  records of settled requests on their way to the database; an element is JSON, a line each
--
--   admit      <user> <key> <ver> <key's ver> <session> <request> <prompt> <want> <least> <step> <slice> <opened>
--              -> ok, granted, requests limit (-1: none) and remaining, tokens limit and remaining, its window, holds
--              | absent, subject | revoked | prompt or generated, left, free, subject
--              | rate, what, limit, window, subject
--              opened: what is kept of the request where all that it wants is granted.
--              least: fewer generated tokens than that are not worth a start; granted is a multiple of step.
--              slice: above 0, no more than that is granted where `want` would be a large part of what is free.
--              left: limit - used. free: left - what other requests hold now. window: m, d, M, "" (none).
--              holds: the windows and numbers at once that it counts in; its settlement gives it back.
--   extend     <request> <want> <step>   -> granted, holds; 0: not open, or nothing is free
--   checkpoint <request> <prompt> <generated>                 -> 1 | 0 (not open: settled already)
--   settle     <user> <key> <request> <reserved prompt> <reserved generated> <prompt> <generated> <holds> <record>
--              -> 1 | 0 (not open; the record goes to the outbox anyway). No record: it is among those of the call.
--              reserved generated: -1 where more was asked for; then what it holds is looked up.
--   reopen     <user> <key> <request> <prompt> <generated> <meta>        -> 1: was lost, is open again | 0
--   cancel     <request>                                       -> 1: released, nothing was forwarded, no record;
--              nor does it count among the requests of this minute
--   alive                                                      -> 1: this process lives
--   reap       <most> <patience>                               -> number of requests settled at their checkpoint
--              of the dead, and of those that were silent at a look at least so many ms ago and still are. At the first
--              look they may be silent because this Redis was away.
--   holding    <token>                                         -> 1, or the whole call fails: whose lock:ledger is not
--   load       <subject> <pl> <gl> <pu> <gu> <ver> <on> <rm> <tm> <td> <tM> <so> <tokens today> <this month>
--              -> 1; used = what is given + the outbox, reserved = what is open; windows that live stay as they are
--
-- Within a call the rows are read together, first, and written together at the end, as are new requests and records: a
-- command costs more than all the arithmetic of a request.

local process, lease, month = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local minute = math.floor(now / 60000)
local OPEN = 'running:' .. process
local LIVES = {m = 120000, d = 172800000, M = 3456000000}
local op = {}

-- By how many numbers there are.
local ROWS = {[2] = '>dd', [11] = '>ddddddddddd', [16] = '>dddddddddddddddd'}
-- Where each number is. As an array a row is read in half the time that a table with names takes.
local ON, VER, PL, GL, PU, GU, PR, GR, RM, RW, RN, TM, TD, T_MONTH, SO, AT_ONCE =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
local MOST = 9007199254740991
local rows, changed = {}, {}

local function read_row(text)
  if not text then return text end
  local count = #text / 8
  local r = {struct.unpack(ROWS[count], text)}
  r[count + 1] = nil -- where it stopped to read
  return r
end

local function row(subject)
  local r = rows[subject]
  if r == nil then
    r = read_row(redis.call('GET', 'counters:' .. subject))
    rows[subject] = r
  end
  return r
end

local function packed(r)
  return struct.pack(ROWS[#r], unpack(r))
end

-- The rows of all who the call's admissions and settlements name, in one command.
local function read_ahead(subjects)
  local keys = {}
  for at, subject in ipairs(subjects) do keys[at] = 'counters:' .. subject end
  for from = 1, #keys, 1000 do
    local texts = redis.call('MGET', unpack(keys, from, math.min(from + 999, #keys)))
    for at = 1, #texts do rows[subjects[from + at - 1]] = read_row(texts[at]) end
  end
end

local function paced(r)
  return r[SO] and (r[SO] >= 0 or r[TM] >= 0 or r[TD] >= 0 or r[T_MONTH] >= 0)
end

local function unlimited(r)
  return not r[GL] or r[PL] >= MOST and r[GL] >= MOST and r[RM] < 0 and not paced(r)
end

local function change(subject, r, p, g, prompt, generated)
  r[PR], r[GR], r[PU], r[GU] = r[PR] + p, r[GR] + g, r[PU] + prompt, r[GU] + generated
  changed[subject] = r
end

local opening, records = {}, {}

local function write_down()
  local new = {}
  for subject, r in pairs(changed) do
    new[#new + 1] = 'counters:' .. subject
    new[#new + 1] = packed(r)
  end
  for at = 1, #new, 1000 do redis.call('MSET', unpack(new, at, math.min(at + 999, #new))) end
  for at = 1, #opening, 1000 do
    redis.call('HSET', OPEN, unpack(opening, at, math.min(at + 999, #opening)))
  end
  for at = 1, #records, 1000 do
    redis.call('RPUSH', 'outbox', unpack(records, at, math.min(at + 999, #records)))
  end
  rows, changed, opening, records = {}, {}, {}, {}
end

-- What is kept of an open request: cp cg are its checkpoint, windows and at_once what `holds` names.
local function opened(user, key, p, g, cp, cg, holds, meta)
  return string.format('%s %s %d %d %d %d|%s|%s', user, key, p, g, cp, cg, holds, meta)
end

local function read_open(text)
  local user, key, p, g, cp, cg, holds, meta = string.match(text, '^(%S+) (%S*) (%d+) (%d+) (%d+) (%d+)|([^|]*)|(.*)$')
  return {user = user, key = key, p = p + 0, g = g + 0, cp = cp + 0, cg = cg + 0, holds = holds, meta = meta}
end

-- Windows: `holds` is a list of win:<subject>:<window>=<tokens held there> and n:<subject>.
local function window(subject, kind)
  if kind == 'm' then return 'win:' .. subject .. ':m' .. minute end
  if kind == 'd' then return 'win:' .. subject .. ':d' .. math.floor(now / 86400000) end
  return 'win:' .. subject .. ':M' .. month
end

local function add(key, count)
  if redis.call('INCRBY', key, count) == count then
    redis.call('PEXPIRE', key, LIVES[string.match(key, ':(%a)%d*$')])
  end
end

-- The request has cost `spent`: its earliest windows are charged first, and the rest is given back.
local function leave(holds, spent)
  local left, last = {}, {}
  for subject in string.gmatch(holds, 'n:(%S+)') do
    local r = row(subject)
    if r and r[AT_ONCE] then r[AT_ONCE] = r[AT_ONCE] - 1 changed[subject] = r end
  end
  for key, tokens in string.gmatch(holds, '(win:%S+)=(%d+)') do
    local kind = string.match(key, '^(.*:%a)')
    local taken = math.min(left[kind] or spent, tokens)
    left[kind], last[kind] = (left[kind] or spent) - taken, key
    if taken ~= tokens + 0 and redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, taken - tokens) end
  end
  for kind, more in pairs(left) do
    if more > 0 and redis.call('EXISTS', last[kind]) == 1 then redis.call('INCRBY', last[kind], more) end
  end
end

-- The rows of those who a request is charged to: the user's, and the key's where it has a limit. false: not loaded, or
-- without a limit.
local function limited(user, key)
  local r, k = row(user), key ~= '' and row(key)
  return r, k and not unlimited(k) and k
end

local function charge(user, key, p, g, prompt, generated)
  local r, k = limited(user, key)
  if r then change(user, r, p, g, prompt, generated) end
  if k then change(key, k, p, g, prompt, generated) end
end

local function release(user, key, p, g, holds, prompt, generated)
  charge(user, key, -p, -g, prompt, generated)
  if holds ~= '' then leave(holds, prompt + generated) end
end

local KINDS, LIMITS = {'m', 'd', 'M'}, {m = TM, d = TD, M = T_MONTH}

-- What the limits of tokens by time leave of a subject: a verdict where it is less than `need`.
local function by_time(subject, r, need, tight, keys)
  for _, kind in ipairs(KINDS) do
    local limit = r[LIMITS[kind]]
    if limit >= 0 then
      local key = window(subject, kind)
      local free = limit - (redis.call('GET', key) or 0)
      if free < need then return string.format('rate\ttokens\t%d\t%s\t%s', limit, kind, subject) end
      if free < tight.free then tight.free, tight.limit, tight.window = free, limit, kind end
      keys[#keys + 1] = key
    end
  end
end

-- The same, and the number of requests at once, which goes into `at_once`.
local function by_pace(subject, r, need, tight, keys, at_once)
  if not paced(r) then return nil end
  if r[SO] >= 0 then
    if r[AT_ONCE] >= r[SO] then return string.format('rate\tat once\t%d\t\t%s', r[SO], subject) end
    at_once[#at_once + 1] = subject
  end
  return by_time(subject, r, need, tight, keys)
end

-- One request more in this minute: how many are left, or a verdict.
local function count_request(subject, r)
  if r[RW] ~= minute then r[RW], r[RN] = minute, 0 end
  r[RN] = r[RN] + 1
  changed[subject] = r
  if r[RN] > r[RM] then return nil, string.format('rate\trequests\t%d\tm\t%s', r[RM], subject) end
  return r[RM] - r[RN]
end

-- Holds so many tokens of the windows, and a place among those at once.
local function hold(keys, at_once, tokens)
  local parts = {}
  for _, name in ipairs(keys) do
    add(name, tokens)
    parts[#parts + 1] = name .. '=' .. tokens
  end
  for _, subject in ipairs(at_once) do
    rows[subject][AT_ONCE] = rows[subject][AT_ONCE] + 1
    parts[#parts + 1] = 'n:' .. subject
  end
  return table.concat(parts, ' ')
end

function op.admit(user, key, ver, kver, session, request, prompt, want, least, step, slice, new)
  local r, k = row(user), false
  if not r then return 'absent\t' .. user end
  if r[ON] ~= 1 or r[VER] ~= ver then return 'revoked' end
  if session ~= '' and redis.call('EXISTS', 'ended:' .. session) == 1 then return 'revoked' end
  if key ~= '' then
    k = row(key)
    if not k then return 'absent\t' .. key end
    if k[ON] ~= 1 or k[VER] ~= kver then return 'revoked' end
    if unlimited(k) then k = false end
  end

  local pleft, gleft, glimit = r[PL] - r[PU], r[GL] - r[GU], r[GL]
  local pfree, psubject, gfree, gsubject = pleft - r[PR], user, gleft - r[GR], user
  if k then
    local left = k[PL] - k[PU]
    if left - k[PR] < pfree then pleft, pfree, psubject = left, left - k[PR], key end
    left = k[GL] - k[GU]
    if left - k[GR] < gfree then gleft, gfree, gsubject, glimit = left, left - k[GR], key, k[GL] end
  end
  if prompt > pfree then return string.format('prompt\t%d\t%d\t%s', pleft, pfree, psubject) end
  local limit, free, window_of_it, keys, at_once = glimit, gfree, '', nil, nil
  if paced(r) or (k and paced(k)) then
    local tight, verdict = {limit = glimit, free = prompt + gfree, window = ''}, nil
    keys, at_once = {}, {}
    verdict = by_pace(user, r, prompt + least, tight, keys, at_once)
      or (k and by_pace(key, k, prompt + least, tight, keys, at_once))
    if verdict then return verdict end
    limit, free, window_of_it = tight.limit, tight.free - prompt, tight.window
  end
  local granted = want
  if slice > 0 and want > slice and want * 4 > free then granted = slice end
  if granted > free or granted % step ~= 0 then granted = math.floor(math.min(granted, free) / step) * step end
  if granted < least then return string.format('generated\t%d\t%d\t%s', gleft, gfree, gsubject) end

  local rlimit, rleft, verdict = -1, -1, nil
  if r[RM] >= 0 then
    rlimit, rleft, verdict = r[RM], count_request(user, r)
    if verdict then return verdict end
  end
  if k and k[RM] >= 0 then
    local left
    left, verdict = count_request(key, k)
    if verdict then return verdict end
    if rlimit < 0 or left < rleft then rlimit, rleft = k[RM], left end
  end

  change(user, r, prompt, granted, 0, 0)
  if k then change(key, k, prompt, granted, 0, 0) end
  local holds = keys and hold(keys, at_once, prompt + granted) or ''
  if holds ~= '' or granted ~= want then
    new = opened(user, key, prompt, granted, 0, 0, holds, read_open(new).meta)
  end
  opening[#opening + 1] = request
  opening[#opening + 1] = new
  return string.format('ok\t%d\t%d\t%d\t%d\t%d\t%s\t%s', granted, rlimit, rleft, limit, free - granted,
    window_of_it, holds)
end

function op.extend(request, want, step)
  write_down()
  local text = redis.call('HGET', OPEN, request)
  if not text then return '0\t' end
  local o, tight, keys = read_open(text), {free = math.huge}, {}
  local r, k = limited(o.user, o.key)
  for subject, each in pairs({[o.user] = r or nil, [o.key] = k or nil}) do
    tight.free = math.min(tight.free, each[GL] - each[GU] - each[GR])
    if paced(each) and by_time(subject, each, 1, tight, keys) then return '0\t' .. o.holds end
  end
  local granted = math.floor(math.min(want, tight.free) / step) * step
  if granted <= 0 then return '0\t' .. o.holds end
  charge(o.user, o.key, 0, granted, 0, 0)
  if keys[1] then o.holds = o.holds .. ' ' .. hold(keys, {}, granted) end
  redis.call('HSET', OPEN, request, opened(o.user, o.key, o.p, o.g + granted, o.cp, o.cg, o.holds, o.meta))
  return string.format('%d\t%s', granted, o.holds)
end

function op.checkpoint(request, prompt, generated)
  local text = redis.call('HGET', OPEN, request)
  if not text then return 0 end
  local o = read_open(text)
  redis.call('HSET', OPEN, request, opened(o.user, o.key, o.p, o.g, prompt, generated, o.holds, o.meta))
  return 1
end

function op.settle(user, key, request, p, g, prompt, generated, holds, record)
  if record ~= '' then records[#records + 1] = record end
  if g < 0 then
    local text = redis.call('HGET', OPEN, request)
    if not text then return 0 end
    local o = read_open(text)
    g, holds = o.g, o.holds
  end
  if redis.call('HDEL', OPEN, request) == 0 then return 0 end
  release(user, key, p, g, holds, prompt, generated)
  return 1
end

function op.reopen(user, key, request, prompt, granted, meta)
  write_down()
  if redis.call('HEXISTS', OPEN, request) == 1 then return 0 end
  charge(user, key, prompt, granted, 0, 0)
  redis.call('HSET', OPEN, request, opened(user, key, prompt, granted, 0, 0, '', meta))
  return 1
end

function op.cancel(request)
  write_down()
  local text = redis.call('HGET', OPEN, request)
  if text then
    local o = read_open(text)
    redis.call('HDEL', OPEN, request)
    release(o.user, o.key, o.p, o.g, o.holds, 0, 0)
    local r, k = limited(o.user, o.key)
    if r and r[RW] == minute and r[RN] > 0 then r[RN] = r[RN] - 1 end
    if k and k[RW] == minute and k[RN] > 0 then k[RN] = k[RN] - 1 end
  end
  return 1
end

function op.alive()
  return 1
end

local function dead(patience)
  local found, seen = redis.call('ZRANGEBYSCORE', 'alive', '-inf', 0), {}
  for _, silent in ipairs(redis.call('ZRANGEBYSCORE', 'alive', '(0', now)) do
    local since = redis.call('ZSCORE', 'silent', silent)
    if since and now - since >= patience + 0 then found[#found + 1] = silent end
    seen[#seen + 1] = since or now
    seen[#seen + 1] = silent
  end
  redis.call('DEL', 'silent')  -- of those who are heard of again nothing stays
  if seen[1] then redis.call('ZADD', 'silent', unpack(seen)) end
  return found
end

function op.reap(most, patience)
  write_down()
  local reaped = 0
  for _, one in ipairs(dead(patience)) do
    local all = redis.call('HGETALL', 'running:' .. one)
    for i = 1, #all, 2 do
      if reaped == most + 0 then return reaped end
      local o = read_open(all[i + 1])
      local record = cjson.decode(o.meta)
      record.prompt_tokens, record.generated_tokens = o.cp, o.cg
      record.outcome, record.exact, record.reserved_tokens = 'expired', false, o.g + 0
      record.duration_ms = math.max(0, now - record.started_ms)
      records[#records + 1] = cjson.encode(record)
      redis.call('HDEL', 'running:' .. one, all[i])
      release(o.user, o.key, o.p, o.g, o.holds, o.cp, o.cg)
      reaped = reaped + 1
    end
    redis.call('ZREM', 'alive', one)
  end
  return reaped
end

function op.holding(token)
  if redis.call('GET', 'lock:ledger') ~= token then error('LOST the lock of the ledger') end
  return 1
end

function op.load(subject, pl, gl, pu, gu, ver, on, rm, tm, td, tM, so, today, this_month)
  write_down()
  local pr, gr, n = 0, 0, 0
  for _, living in ipairs(redis.call('ZRANGE', 'alive', 0, -1)) do
    for _, text in ipairs(redis.call('HVALS', 'running:' .. living)) do
      local o = read_open(text)
      if o.user == subject or o.key == subject then pr, gr = pr + o.p, gr + o.g end
      if string.find(' ' .. o.holds .. ' ', ' n:' .. subject .. ' ', 1, true) then n = n + 1 end
    end
  end
  local spent, seen = 0, {}
  for json in string.gmatch(table.concat(redis.call('LRANGE', 'outbox', 0, -1), '\n'), '[^\n]+') do
    local record = cjson.decode(json)
    if seen[record.request_id] then record.user_id, record.key_id = nil, nil end
    seen[record.request_id] = true
    if tostring(record.user_id) == subject or 'k' .. tostring(record.key_id) == subject then
      pu, gu = pu + record.prompt_tokens, gu + record.generated_tokens
      spent = spent + record.prompt_tokens + record.generated_tokens
    end
  end
  if td ~= '-1' then redis.call('SET', window(subject, 'd'), today + spent, 'NX', 'PX', LIVES.d) end
  if tM ~= '-1' then redis.call('SET', window(subject, 'M'), this_month + spent, 'NX', 'PX', LIVES.M) end
  local old = row(subject) or {}
  local new = {on, ver, pl, gl, pu, gu, pr, gr, rm, old[RW] or 0, old[RN] or 0, tm, td, tM, so, n}
  for at, number in ipairs(new) do new[at] = number + 0 end
  local count = AT_ONCE
  if not paced(new) then count = RN end
  if string.sub(subject, 1, 1) == 'k' and unlimited(new) then count = VER end
  redis.call('SET', 'counters:' .. subject, struct.pack(ROWS[count], unpack(new, 1, count)))
  rows[subject] = nil
  return 1
end

if process ~= '' then redis.call('ZADD', 'alive', lease < 0 and 0 or now + lease, process) end
if ARGV[4] ~= '' then records[1] = ARGV[4] end
-- The hot ones: strings with their length before them, numbers as big-endian doubles, at the end what is longest.
local packed_ops = {
  A = function(text)
    local user, key, ver, kver, session, request, prompt, want, least, step, slice, at =
      struct.unpack('>Bc0Bc0ddBc0Bc0ddddd', text, 2)
    return op.admit(user, key, ver, kver, session, request, prompt, want, least, step, slice, string.sub(text, at))
  end,
  S = function(text)
    local user, key, request, p, g, prompt, generated, holds, at = struct.unpack('>Bc0Bc0Bc0ddddHc0', text, 2)
    return op.settle(user, key, request, p, g, prompt, generated, holds, string.sub(text, at))
  end
}

local function spelt(text)
  local parts = {}
  for part in string.gmatch(text .. '\0', '(%Z*)%z') do parts[#parts + 1] = part end
  return op[parts[1]](unpack(parts, 2))
end

local named, known = {}, {[''] = true}
local function name_it(subject)
  if not known[subject] then
    known[subject] = true
    named[#named + 1] = subject
  end
end
for at = 5, #ARGV do
  if packed_ops[string.sub(ARGV[at], 1, 1)] then
    local user, key = struct.unpack('>Bc0Bc0', ARGV[at], 2)
    name_it(user)
    name_it(key)
  end
end
read_ahead(named)

local out = {}
for at = 5, #ARGV do
  local text = ARGV[at]
  out[at - 4] = (packed_ops[string.sub(text, 1, 1)] or spelt)(text)
end
write_down()
return table.concat(out, '\n')
