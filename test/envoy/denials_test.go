package envoy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A limit names the status with which it refuses, and a limit of 0 refuses always.
func TestEveryKindOfRefusal(t *testing.T) {
	t.Parallel()
	kinds := map[string]struct {
		status                int
		kind, code, anthropic string
	}{
		"TooManyRequests":    {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"},
		"PaymentRequired":    {402, "payment_required", "quota_exceeded", "billing_error"},
		"Forbidden":          {403, "permission_error", "limit_exceeded", "permission_error"},
		"ServiceUnavailable": {503, "service_unavailable", "capacity_exceeded", "overloaded_error"},
	}
	docs := []string{gateway}
	for exceeded := range kinds {
		name := strings.ToLower(exceeded)
		docs = append(docs, tier(name, "{metric: Requests, per: Day, max: 0, exceeded: "+exceeded+"}"), holder(name, name, "key-"+exceeded))
	}
	s := start(t, manifests(docs...))
	for exceeded, want := range kinds {
		shapes := map[string]string{
			chatPath:     fmt.Sprintf(`^\{"error":\{"type":"%s","message":"[^"]*\b(\d+) seconds\.","code":"%s"\}\}$`, want.kind, want.code),
			messagesPath: fmt.Sprintf(`^\{"type":"error","error":\{"type":"%s","message":"[^"]*\b(\d+) seconds\."\}\}$`, want.anthropic),
		}
		for path, shape := range shapes {
			a := s.send(t, request{path: path, key: "key-" + exceeded, body: prompt{maxTokens: 1}.chat()})
			told := regexp.MustCompile(shape).FindStringSubmatch(a.body)
			if a.status != want.status || told == nil || told[1] != a.header.Get("Retry-After") {
				t.Errorf("%s%s: %d, Retry-After %q: %s, want %d", exceeded, path, a.status, a.header.Get("Retry-After"), a.body, want.status)
			}
			if got := a.header.Values("x-should-retry"); len(got) != 1 || got[0] != "false" {
				t.Errorf("%s%s: x-should-retry is %q, want false", exceeded, path, got)
			}
			if a.number(t, "x-ratelimit-limit") != 0 || a.number(t, "x-ratelimit-remaining") != 0 {
				t.Errorf("%s%s: the limit is told as %v", exceeded, path, a.header)
			}
		}
	}
}
