package envoy_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
)

// The plans of the first document that this product must be able to reproduce. 0 is unlimited.
var plans = map[string]struct {
	key                                    string
	perMinute, tokensPerMinute, perDay, is int64
}{
	"free":       {"sk-free-0123456789abcdef", 10, 40_000, 500, 1},
	"basic":      {"sk-basic-0123456789abcdef", 50, 200_000, 10_000, 2},
	"pro":        {"sk-pro-0123456789abcdef", 100, 1_000_000, 100_000, 3},
	"enterprise": {"sk-enterprise-0123456789abcdef", 0, 0, 0, 4},
}

func TestKeyTiersTellEveryNumber(t *testing.T) {
	t.Parallel()
	files := sample(t, "key-tiers")
	minute := start(t, files)
	daily := maps.Clone(files)
	// Headers speak of one window, so the numbers of the day need a gateway that names it.
	for before, after := range map[string]string{"perResource: {window: Minute}": "perResource: {window: Day}", ", window: Minute}": ", window: Day}"} {
		name, content := edit(t, daily, before, after)
		daily[name] = content
	}
	day := start(t, daily)
	for name, plan := range plans {
		m, d := minute.pass(t, chat(plan.key, prompt{})), day.pass(t, chat(plan.key, prompt{}))
		for _, header := range []struct {
			of   answer
			name string
			want int64
		}{
			{m, "X-RateLimit-Limit", plan.perMinute},
			{m, "x-ratelimit-limit-requests", plan.perMinute},
			{m, "x-ratelimit-limit-tokens", plan.tokensPerMinute},
			{m, "X-Request-Priority", plan.is},
			{d, "X-RateLimit-Limit", plan.perDay},
			{d, "x-ratelimit-limit-requests", plan.perDay},
			{d, "X-Request-Priority", plan.is},
		} {
			if header.want == 0 {
				checkNoLimit(t, name, header.of)
			} else if got := header.of.number(t, header.name); got != header.want {
				t.Errorf("%s: %s is %d, want %d", name, header.name, got, header.want)
			}
		}
		if got := m.header.Get("X-RateLimit-Resource"); got != "chat" {
			t.Errorf("%s: the resource is %q, want chat", name, got)
		}
	}
}

// checkNoLimit demands that an answer tells of no limit.
func checkNoLimit(t *testing.T, name string, a answer) {
	t.Helper()
	for header, values := range a.header {
		lower := strings.ToLower(header)
		if strings.HasPrefix(lower, "x-ratelimit-") && lower != "x-ratelimit-resource" {
			t.Errorf("%s: %s: %v", name, header, values)
		}
	}
}

func TestKeyTiersAdmitExactlyTheirMinute(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "key-tiers"))
	for name, plan := range plans {
		r := chat(plan.key, prompt{})
		if plan.perMinute == 0 {
			for range 120 { // more than any other plan allows
				checkNoLimit(t, name, s.pass(t, r))
			}
			continue
		}
		a, admitted := s.untilRefused(t, int(plan.perMinute), r)
		if admitted != plan.perMinute || a.status != http.StatusTooManyRequests {
			t.Errorf("%s: %d requests were admitted in the minute, want %d", name, admitted, plan.perMinute)
		}
	}
}
