-- The live ledger: every admission, checkpoint and settlement is one operation of this script, and so is atomic.
-- ARGV holds any number of operations one after the other; the answer has one element for each.
--
--   quota:<user>     hash  pl gl limits; pu gu used; pr gr reserved; ver token version; on 1 or 0
--   open:<request>   hash  u user; p g reserved; cp cg checkpoint; m what its record will say, as JSON
--   open             zset  request -> end of its lease, ms
--   outbox           list  records of settled requests, JSON, on their way to the database
--
--   admit      <request> <user> <ver> <prompt> <want> <least> <step> <lease ms> <meta>
--              -> {"ok", granted} | {"absent"} | {"revoked"} | {"prompt"|"generated", left, free}
--              least: fewer generated tokens than that are not worth a start; granted is a multiple of step.
--              left: limit - used. free: left - what other requests hold now.
--   checkpoint <request> <prompt> <generated> <lease ms>      -> 1 | 0 (not open: settled already)
--   settle     <request> <prompt> <generated> <record>        -> 1 | 0 (not open; the record goes to the outbox anyway)
--   cancel     <request>                                       -> 1: released, nothing was forwarded, no record
--   reap       <most>                                          -> number of requests settled at their checkpoint
--   load       <user> <pl> <gl> <pu> <gu> <ver> <on>           -> 1; used = what is given + the outbox,
--                                                                reserved = what is open

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local op = {}

local function release(request, user, p, g, prompt, generated)
  redis.call('DEL', 'open:' .. request)
  redis.call('ZREM', 'open', request)
  local quota = 'quota:' .. user
  if redis.call('EXISTS', quota) == 1 then
    redis.call('HINCRBY', quota, 'pr', -p)
    redis.call('HINCRBY', quota, 'gr', -g)
    redis.call('HINCRBY', quota, 'pu', prompt)
    redis.call('HINCRBY', quota, 'gu', generated)
  end
end

function op.admit(request, user, ver, prompt, want, least, step, lease, meta)
  local quota = 'quota:' .. user
  local q = redis.call('HMGET', quota, 'on', 'ver', 'pl', 'gl', 'pu', 'gu', 'pr', 'gr')
  if not q[1] then return {'absent'} end
  if q[1] ~= '1' or q[2] ~= ver then return {'revoked'} end
  prompt, want, least, step = tonumber(prompt), tonumber(want), tonumber(least), tonumber(step)
  local pleft, gleft = q[3] - q[5], q[4] - q[6]
  local pfree, gfree = pleft - q[7], gleft - q[8]
  if prompt > pfree then return {'prompt', pleft, pfree} end
  if gfree < least then return {'generated', gleft, gfree} end
  local granted = math.floor(math.min(want, gfree) / step) * step
  if granted < least then return {'generated', gleft, gfree} end
  redis.call('HINCRBY', quota, 'pr', prompt)
  redis.call('HINCRBY', quota, 'gr', granted)
  redis.call('HSET', 'open:' .. request, 'u', user, 'p', prompt, 'g', granted, 'cp', 0, 'cg', 0, 'm', meta)
  redis.call('ZADD', 'open', now + lease, request)
  return {'ok', granted}
end

function op.checkpoint(request, prompt, generated, lease)
  if redis.call('EXISTS', 'open:' .. request) == 0 then return 0 end
  redis.call('HSET', 'open:' .. request, 'cp', prompt, 'cg', generated)
  redis.call('ZADD', 'open', now + lease, request)
  return 1
end

function op.settle(request, prompt, generated, record)
  local o = redis.call('HMGET', 'open:' .. request, 'u', 'p', 'g')
  redis.call('RPUSH', 'outbox', record)
  if not o[1] then return 0 end
  release(request, o[1], o[2], o[3], prompt, generated)
  return 1
end

function op.cancel(request)
  local o = redis.call('HMGET', 'open:' .. request, 'u', 'p', 'g')
  if o[1] then release(request, o[1], o[2], o[3], 0, 0) end
  return 1
end

function op.reap(most)
  local expired = redis.call('ZRANGEBYSCORE', 'open', '-inf', now, 'LIMIT', 0, most)
  for _, request in ipairs(expired) do
    local o = redis.call('HMGET', 'open:' .. request, 'u', 'p', 'g', 'cp', 'cg', 'm')
    if o[1] then
      local record = cjson.decode(o[6])
      record.prompt_tokens, record.generated_tokens = tonumber(o[4]), tonumber(o[5])
      record.outcome, record.exact = 'expired', false
      record.duration_ms = math.max(0, now - record.started_ms)
      redis.call('RPUSH', 'outbox', cjson.encode(record))
      release(request, o[1], o[2], o[3], o[4], o[5])
    else
      redis.call('ZREM', 'open', request)
    end
  end
  return #expired
end

function op.load(user, pl, gl, pu, gu, ver, on)
  local pr, gr = 0, 0
  for _, request in ipairs(redis.call('ZRANGE', 'open', 0, -1)) do
    local o = redis.call('HMGET', 'open:' .. request, 'u', 'p', 'g')
    if o[1] == user then pr, gr = pr + o[2], gr + o[3] end
  end
  for _, json in ipairs(redis.call('LRANGE', 'outbox', 0, -1)) do
    local record = cjson.decode(json)
    if tostring(record.user_id) == user then
      pu, gu = pu + record.prompt_tokens, gu + record.generated_tokens
    end
  end
  redis.call('HSET', 'quota:' .. user, 'pl', pl, 'gl', gl, 'pu', string.format('%.0f', pu), 'gu',
    string.format('%.0f', gu), 'pr', pr, 'gr', gr, 'ver', ver, 'on', on)
  return 1
end

local arguments = {admit = 9, checkpoint = 4, settle = 4, cancel = 1, reap = 1, load = 7}
local out, at = {}, 1
while at <= #ARGV do
  local name = ARGV[at]
  local count = arguments[name]
  out[#out + 1] = op[name](unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return out
