-- The live ledger: every admission, checkpoint and settlement is one operation of this script, and so is atomic.
-- ARGV holds any number of operations one after the other; the answer has one element for each.
--
--   quota:<subject>  hash  pl gl limits; pu gu used; pr gr reserved; ver version of its rights; on 1 or 0;
--                          rm requests per minute; tm td tM tokens per minute, day, month; so requests at once; each
--                          "" for none; lim 1 if there is one beside rm; n requests at once, counted while so is set
--                          A subject is a user (its id) or an API key ("k" and its id). A request with a key holds of
--                          both; "" in the place of a key: none.
--   req:<subject>:<minute>           requests let through in that minute
--   win:<subject>:<m|d|M><number>    tokens used and reserved in that minute, day, month (UTC)
--   ended:<session>  string  that session's access tokens count no more
--   open:<request>   hash  u user; k key; p g reserved; cp cg checkpoint; m what its record will say, as JSON;
--                          w the windows that it counts in; a the subjects whose n it counts in
--   open             zset  request -> end of its lease, ms
--   outbox           list  records of settled requests, JSON, on their way to the database
--
--   admit      <request> <user> <ver> <session> <key> <ver> <prompt> <want> <least> <step> <lease ms> <month> <meta>
--              -> {"ok", granted, requests limit (-1: none) and remaining, tokens limit and remaining, its window}
--              | {"absent", subject} | {"revoked"} | {"prompt"|"generated", left, free, subject}
--              | {"rate", what, limit, window, subject}
--              least: fewer generated tokens than that are not worth a start; granted is a multiple of step.
--              left: limit - used. free: left - what other requests hold now. window: m, d, M, "" (none).
--   checkpoint <request> <prompt> <generated> <lease ms>      -> 1 | 0 (not open: settled already)
--   settle     <request> <prompt> <generated> <record>        -> 1 | 0 (not open; the record goes to the outbox anyway)
--   reopen     <request> <user> <key> <prompt> <generated> <lease ms> <meta>   -> 1: was lost, is open again | 0
--   cancel     <request>                                       -> 1: released, nothing was forwarded, no record
--   reap       <most>                                          -> number of requests settled at their checkpoint
--   holding    <token>                                         -> 1, or the whole call fails: whose lock:ledger is not
--   load       <subject> <pl> <gl> <pu> <gu> <ver> <on> <rm> <tm> <td> <tM> <so> <month> <tokens today> <this month>
--              -> 1; used = what is given + the outbox, reserved = what is open; windows that live stay as they are

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local op = {}
local LIVES = {m = 120000, d = 172800000, M = 3456000000}

local function window(subject, kind, month)
  if kind == 'm' then return 'win:' .. subject .. ':m' .. math.floor(now / 60000) end
  if kind == 'd' then return 'win:' .. subject .. ':d' .. math.floor(now / 86400000) end
  return 'win:' .. subject .. ':M' .. month
end

local function add(key, count, life)
  if redis.call('INCRBY', key, count) == count then redis.call('PEXPIRE', key, life) end
end

-- One write in the place of several HINCRBY: the script is atomic, and a call costs more than the arithmetic.
local function move(subject, p, g, prompt, generated)
  local quota = 'quota:' .. subject
  local q = redis.call('HMGET', quota, 'pr', 'gr', 'pu', 'gu')
  if q[1] then
    redis.call('HSET', quota, 'pr', q[1] - p, 'gr', q[2] - g, 'pu', q[3] + prompt, 'gu', q[4] + generated)
  end
end

local function release(request, o, prompt, generated)
  redis.call('DEL', 'open:' .. request)
  redis.call('ZREM', 'open', request)
  move(o[1], o[3], o[4], prompt, generated)
  if o[2] and o[2] ~= '' then move(o[2], o[3], o[4], prompt, generated) end
  if o[5] then
    local change = prompt + generated - o[3] - o[4]
    for key in string.gmatch(o[5], '%S+') do
      if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, change) end
    end
    for subject in string.gmatch(o[6], '%S+') do
      if redis.call('EXISTS', 'quota:' .. subject) == 1 then redis.call('HINCRBY', 'quota:' .. subject, 'n', -1) end
    end
  end
end

-- The subject's row as {on ver pl gl pu gu pr gr rm lim}, or a verdict alone.
local function standing(subject, ver)
  local q = redis.call('HMGET', 'quota:' .. subject, 'on', 'ver', 'pl', 'gl', 'pu', 'gu', 'pr', 'gr', 'rm', 'lim')
  if not q[1] then return nil, {'absent', subject} end
  if q[1] ~= '1' or q[2] ~= ver then return nil, {'revoked'} end
  return q
end

-- What the subject's limits by time and number leave: a verdict, or the tightest {limit, free, window}.
local function pace(subject, month, need, tight, held)
  local l = redis.call('HMGET', 'quota:' .. subject, 'tm', 'td', 'tM', 'so', 'n')
  if l[4] and l[4] ~= '' then
    if tonumber(l[5] or 0) >= tonumber(l[4]) then return {'rate', 'at once', tonumber(l[4]), '', subject} end
    held.at_once[#held.at_once + 1] = subject
  end
  for i, kind in ipairs({'m', 'd', 'M'}) do
    if l[i] and l[i] ~= '' then
      local key = window(subject, kind, month)
      local free = l[i] - (redis.call('GET', key) or 0)
      if free < need then return {'rate', 'tokens', tonumber(l[i]), kind, subject} end
      if free < tight.free then tight.free, tight.limit, tight.window = free, tonumber(l[i]), kind end
      held.windows[#held.windows + 1] = {key, LIVES[kind]}
    end
  end
end

local function hold(subject, q, prompt, granted)
  redis.call('HSET', 'quota:' .. subject, 'pr', q[7] + prompt, 'gr', q[8] + granted)
end

function op.admit(request, user, ver, session, key, kver, prompt, want, least, step, lease, month, meta)
  prompt, want, least, step = tonumber(prompt), tonumber(want), tonumber(least), tonumber(step)
  local q, verdict = standing(user, ver)
  if verdict then return verdict end
  if session ~= '' and redis.call('EXISTS', 'ended:' .. session) == 1 then return {'revoked'} end
  local subjects = {{user, q}}
  if key ~= '' then
    local k
    k, verdict = standing(key, kver)
    if verdict then return verdict end
    subjects[2] = {key, k}
  end

  local pleft, pfree, psubject = math.huge, math.huge, user
  local gleft, gfree, gsubject, glimit = math.huge, math.huge, user, 0
  for _, one in ipairs(subjects) do
    local s, r = one[1], one[2]
    local left = r[3] - r[5]
    if left - r[7] < pfree then pleft, pfree, psubject = left, left - r[7], s end
    left = r[4] - r[6]
    if left - r[8] < gfree then gleft, gfree, gsubject, glimit = left, left - r[8], s, tonumber(r[4]) end
  end
  if prompt > pfree then return {'prompt', pleft, pfree, psubject} end
  local tight = {limit = glimit, free = prompt + gfree, window = ''}
  local held = {windows = {}, at_once = {}}
  for _, one in ipairs(subjects) do
    if one[2][10] == '1' then
      verdict = pace(one[1], month, prompt + least, tight, held)
      if verdict then return verdict end
    end
  end
  local granted = math.floor(math.min(want, tight.free - prompt) / step) * step
  if granted < least then return {'generated', gleft, gfree, gsubject} end

  local rlimit, rfree = -1, -1
  for _, one in ipairs(subjects) do
    local rm = one[2][9]
    if rm and rm ~= '' then
      local counter = 'req:' .. one[1] .. ':' .. math.floor(now / 60000)
      local count = redis.call('INCR', counter)
      if count == 1 then redis.call('PEXPIRE', counter, LIVES.m) end
      local free = rm - count
      if free < 0 then return {'rate', 'requests', tonumber(rm), 'm', one[1]} end
      if rlimit < 0 or free < rfree then rlimit, rfree = tonumber(rm), free end
    end
  end

  for _, one in ipairs(subjects) do hold(one[1], one[2], prompt, granted) end
  local open = {'u', user, 'k', key, 'p', prompt, 'g', granted, 'cp', 0, 'cg', 0, 'm', meta}
  if held.windows[1] or held.at_once[1] then
    local keys = {}
    for i, one in ipairs(held.windows) do
      add(one[1], prompt + granted, one[2])
      keys[i] = one[1]
    end
    for _, subject in ipairs(held.at_once) do redis.call('HINCRBY', 'quota:' .. subject, 'n', 1) end
    for _, part in ipairs({'w', table.concat(keys, ' '), 'a', table.concat(held.at_once, ' ')}) do
      open[#open + 1] = part
    end
  end
  redis.call('HSET', 'open:' .. request, unpack(open))
  redis.call('ZADD', 'open', now + lease, request)
  return {'ok', granted, rlimit, rfree, tight.limit, tight.free - prompt - granted, tight.window}
end

function op.checkpoint(request, prompt, generated, lease)
  if redis.call('EXISTS', 'open:' .. request) == 0 then return 0 end
  redis.call('HSET', 'open:' .. request, 'cp', prompt, 'cg', generated)
  redis.call('ZADD', 'open', now + lease, request)
  return 1
end

function op.settle(request, prompt, generated, record)
  local o = redis.call('HMGET', 'open:' .. request, 'u', 'k', 'p', 'g', 'w', 'a')
  redis.call('RPUSH', 'outbox', record)
  if not o[1] then return 0 end
  release(request, o, prompt, generated)
  return 1
end

function op.reopen(request, user, key, prompt, granted, lease, meta)
  if redis.call('EXISTS', 'open:' .. request) == 1 then return 0 end
  for _, subject in ipairs({user, key}) do
    local quota = 'quota:' .. subject
    if subject ~= '' and redis.call('EXISTS', quota) == 1 then
      redis.call('HINCRBY', quota, 'pr', prompt)
      redis.call('HINCRBY', quota, 'gr', granted)
    end
  end
  redis.call('HSET', 'open:' .. request, 'u', user, 'k', key, 'p', prompt, 'g', granted, 'cp', 0, 'cg', 0, 'm', meta)
  redis.call('ZADD', 'open', now + lease, request)
  return 1
end

function op.cancel(request)
  local o = redis.call('HMGET', 'open:' .. request, 'u', 'k', 'p', 'g', 'w', 'a')
  if o[1] then release(request, o, 0, 0) end
  return 1
end

function op.reap(most)
  local expired = redis.call('ZRANGEBYSCORE', 'open', '-inf', now, 'LIMIT', 0, most)
  for _, request in ipairs(expired) do
    local o = redis.call('HMGET', 'open:' .. request, 'u', 'k', 'p', 'g', 'w', 'a', 'cp', 'cg', 'm')
    if o[1] then
      local record = cjson.decode(o[9])
      record.prompt_tokens, record.generated_tokens = tonumber(o[7]), tonumber(o[8])
      record.outcome, record.exact = 'expired', false
      record.duration_ms = math.max(0, now - record.started_ms)
      redis.call('RPUSH', 'outbox', cjson.encode(record))
      release(request, o, o[7], o[8])
    else
      redis.call('ZREM', 'open', request)
    end
  end
  return #expired
end

function op.holding(token)
  if redis.call('GET', 'lock:ledger') ~= token then error('LOST the lock of the ledger') end
  return 1
end

function op.load(subject, pl, gl, pu, gu, ver, on, rm, tm, td, tM, so, month, today, this_month)
  local pr, gr, n = 0, 0, 0
  for _, request in ipairs(redis.call('ZRANGE', 'open', 0, -1)) do
    local o = redis.call('HMGET', 'open:' .. request, 'u', 'k', 'p', 'g', 'a')
    if o[1] == subject or o[2] == subject then pr, gr = pr + o[3], gr + o[4] end
    if o[5] and string.find(' ' .. o[5] .. ' ', ' ' .. subject .. ' ', 1, true) then n = n + 1 end
  end
  local spent, seen = 0, {}
  for _, json in ipairs(redis.call('LRANGE', 'outbox', 0, -1)) do
    local record = cjson.decode(json)
    if seen[record.request_id] then record.user_id, record.key_id = nil, nil end
    seen[record.request_id] = true
    if tostring(record.user_id) == subject or 'k' .. tostring(record.key_id) == subject then
      pu, gu = pu + record.prompt_tokens, gu + record.generated_tokens
      spent = spent + record.prompt_tokens + record.generated_tokens
    end
  end
  if td ~= '' then redis.call('SET', window(subject, 'd'), today + spent, 'NX', 'PX', LIVES.d) end
  if tM ~= '' then redis.call('SET', window(subject, 'M', month), this_month + spent, 'NX', 'PX', LIVES.M) end
  local lim = (tm .. td .. tM .. so ~= '') and 1 or 0
  redis.call('HSET', 'quota:' .. subject, 'pl', pl, 'gl', gl, 'pu', string.format('%.0f', pu), 'gu',
    string.format('%.0f', gu), 'pr', pr, 'gr', gr, 'ver', ver, 'on', on, 'rm', rm, 'tm', tm, 'td', td, 'tM', tM,
    'so', so, 'n', n, 'lim', lim)
  return 1
end

local arguments = {admit = 13, checkpoint = 4, settle = 4, reopen = 7, cancel = 1, reap = 1, holding = 1, load = 15}
local out, at = {}, 1
while at <= #ARGV do
  local name = ARGV[at]
  local count = arguments[name]
  out[#out + 1] = op[name](unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return out
