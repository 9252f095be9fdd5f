-- What the scripts share, each of which makes several calls in one run. It stands before each of them.

-- Redis does not name the key that it does not like.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    error(answer.err .. ' ' .. key, 0)
  end
  return answer
end

local function unreadable(key)
  error('LAYOUT ' .. key, 0)
end

-- What a call answers, or the error that it ended by, which costs the others nothing.
local function try(make, ...)
  local made, answer = pcall(make, ...)
  return made and answer or {err = answer}
end

