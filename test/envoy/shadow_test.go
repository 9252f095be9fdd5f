package envoy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestLimitsAreTriedBeforeTheyHold lets a plan go into force in two steps, as an operator would: tried first, looked at, and
// enforced then.
func TestLimitsAreTriedBeforeTheyHold(t *testing.T) {
	t.Parallel()
	files := manifests(gateway, strings.Replace(tier("plan", "{metric: Requests, per: Day, max: 2}", "concurrency: 1"), "spec:\n", "spec:\n  enforcement: Shadow\n", 1),
		model("tried", "{concurrentRequests: 1}"), holder("user", "plan", "key-user"))
	s := start(t, files)
	clearOf(t, 24*time.Hour)
	// Two at once: one is too many for the plan. (The model's capacity is enforced, so they ask for different models.)
	busy := s.open(t, chat("key-user", prompt{model: "tried", stream: true}, "x-demo-token-delay: 1h"))
	if busy.status != http.StatusOK {
		t.Fatalf("the first request got %d", busy.status)
	}
	a := s.pass(t, chat("key-user", prompt{model: "other"}))
	for name := range a.header {
		if strings.Contains(strings.ToLower(name), "ratelimit-limit") {
			t.Errorf("a limit that is only tried is told to the client: %s", name)
		}
	}
	if full := s.send(t, chat("key-user", prompt{model: "tried"})); full.status != http.StatusServiceUnavailable || !strings.Contains(full.body, `"capacity_exceeded"`) {
		t.Errorf("the model at its capacity got %d: %s, want 503", full.status, full.body)
	}
	busy.cut()
	eventually(t, soon, "the slot is free", func() bool {
		return s.send(t, chat("key-user", prompt{model: "tried"})).status == http.StatusOK
	})
	s.pass(t, chat("key-user", prompt{model: "other"}))

	tried := s.shadow(t)
	if tried["spec.limits.concurrency.max"] < 1 || tried["spec.limits.rates[metric=Requests,per=Day].max"] < 1 || len(tried) != 2 {
		t.Errorf("the report has %v, want the plan's two limits", tried)
	}
	sum := 0.0
	for _, object := range []string{`metric="ConcurrentRequests",object="RateLimitTier plan",per=""`, `metric="Requests",object="RateLimitTier plan",per="Day"`} {
		n, _ := s.metric(t, `tierkeeper_shadow_denied_total{key="default/user",`+object+`,scope="Key"}`)
		sum += n
	}
	if want := tried["spec.limits.concurrency.max"] + tried["spec.limits.rates[metric=Requests,per=Day].max"]; sum != float64(want) {
		t.Errorf("the metrics count %v, and the report %d", sum, want)
	}

	name, content := edit(t, files, "enforcement: Shadow", "enforcement: Enforce")
	s.write(t, name, content)
	eventually(t, soon, "the plan is enforced", func() bool {
		return s.send(t, chat("key-user", prompt{model: "other"})).status == http.StatusTooManyRequests
	})
}

// shadow is what the program lists, by field: how many requests would have been refused.
func (s *system) shadow(t *testing.T) map[string]int {
	t.Helper()
	var report struct {
		Shadow []struct {
			Key    string
			Origin struct{ Field string }
			Count  int
		}
	}
	decode(t, s.tierkeeper(t, "shadow", "-o", "json"), &report)
	counts := map[string]int{}
	for _, entry := range report.Shadow {
		counts[entry.Origin.Field] += entry.Count
	}
	return counts
}
