package envoy

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/tierkeeper/tierkeeper/policy"
)

// stripQuery removes the query parameters in which a key can stand, now that the reserve has seen them, and from calls of
// Gemini those that leave usage out of the answer. The rest of the query stays as it is, byte for byte. Envoy's
// query_parameter_mutations would write all of it anew, sorted and decoded: a %20 would make a request that no server reads,
// and a %26 two parameters out of one.
func stripQuery(g *policy.Gateway) []*hcmv3.HttpFilter {
	var script strings.Builder
	for _, s := range g.Sources {
		if s.Query != "" {
			fmt.Fprintf(&script, "keys[%q] = true\n", s.Query)
		}
	}
	if script.Len() == 0 && !slices.ContainsFunc(g.Routes, isGemini) {
		return nil
	}
	return []*hcmv3.HttpFilter{filter("tierkeeper.strip_query", &luav3.Lua{DefaultSourceCode: &corev3.DataSource{
		Specifier: &corev3.DataSource_InlineString{InlineString: "local keys = {}\n" + script.String() + withoutKeys},
	}})}
}

func isGemini(r policy.Route) bool { return r.Protocol == policy.Gemini }

// maskHeader asks Google's APIs for some fields of the answer only.
const maskHeader = "x-goog-fieldmask"

// withoutKeys compares names as the reserve does, decoded. Names are plain enough to be the same in Go and in Lua. All of
// Google's APIs know the parameters that choose fields of the answer, or another form of it.
const withoutKeys = `
local forms = {fields = true, ["$fields"] = true, callback = true, ["$callback"] = true, alt = true, ["$alt"] = true}
local known = {["alt=sse"] = true, ["alt=json"] = true}

local function decoded(name)
  return (name:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function envoy_on_request(request)
  local path, query = request:headers():get(":path"):match("^([^?]*)%?(.*)$")
  if not path then return end
  local gemini = path:find(":generateContent$") or path:find(":streamGenerateContent$")
  local kept, found = {}, false
  for parameter in (query .. "&"):gmatch("([^&]*)&") do
    local name = decoded(parameter:match("^[^=]*"))
    if keys[name] or gemini and forms[name] and not known[parameter] then
      found = true
    else
      kept[#kept + 1] = parameter
    end
  end
  if not found then return end
  if #kept > 0 then path = path .. "?" .. table.concat(kept, "&") end
  request:headers():replace(":path", path)
end
`
