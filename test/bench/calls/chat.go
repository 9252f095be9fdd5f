package calls

import (
	"fmt"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/tierkeeper/tierkeeper/test/bench/load"
)

// Chat is a chat request to a gateway.
func Chat(key string) load.Call {
	return load.Call{
		Header: []hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "http"},
			{Name: ":path", Value: "/v1/chat/completions"},
			{Name: ":authority", Value: "gateway"},
			{Name: "authorization", Value: "Bearer " + key, Sensitive: true}, // Each client has one of its own, and so no table for it.
			{Name: "content-type", Value: "application/json"},
		},
		Body: chat,
	}
}

var chat = fmt.Appendf(nil, `{"model":%q,"max_tokens":1024,"messages":[{"role":"system","content":"Answer in one short sentence."},{"role":"user","content":%q}]}`,
	Model, strings.Repeat("What is a rate limit good for, and who is it that pays for what goes over it? ", 20))

// ReadHTTP says what an HTTP answer means.
func ReadHTTP(a *load.Answer) (load.Outcome, *load.Call) {
	switch a.Status {
	case "200":
		return load.Admitted, nil
	case "429":
		return load.Refused, nil
	default:
		return load.Failed, nil
	}
}
