package command_test

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// triedAt is the admin address of a service that has let so many requests through of which its gateway only tries to refuse
// all but the first.
func triedAt(t *testing.T, requests int) string {
	t.Helper()
	tier := v1alpha1.RateLimitTier{}
	tier.Name = "free"
	tier.Spec.Limits = &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMonth, Max: new(int64(1))}}}
	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name = "edge", "main"
	g.Spec.Enforcement = v1alpha1.EnforcementShadow
	g.Spec.Identity = v1alpha1.Identity{
		Sources:    []v1alpha1.KeySource{{Header: "x-api-key"}},
		MissingKey: &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &v1alpha1.Ref{Name: "free"}},
	}
	table, _ := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}, Tiers: []*v1alpha1.RateLimitTier{&tier}})
	l := ratelimit.New(memory.New(), []byte("secret"), atOneTime())
	l.SetTable(table)
	for range requests {
		if d, err := l.Reserve(t.Context(), &descriptor.Reserve{Client: "192.0.2.1", Gateway: "edge/main", Resource: "chat", Model: "m"}); err != nil || d.Status != 0 {
			t.Fatalf("got status %d and error %v", d.Status, err)
		}
	}
	s := httptest.NewServer(admin.Handler(l, ""))
	t.Cleanup(s.Close)
	return s.URL
}

func TestShadowListsWhatWouldHaveBeenRefused(t *testing.T) {
	t.Parallel()
	if got := mustRun(t, "shadow", "--admin", triedAt(t, 1)); got != "Nothing would have been refused.\n" {
		t.Errorf("got %q", got)
	}
	at := triedAt(t, 4)
	text := mustRun(t, "shadow", "--admin", at)
	shape := `^KEY +GATEWAY +WOULD REFUSE +LAST +LIMIT +MAX +FROM\n` +
		`client 192\.0\.2\.1 +edge/main +3 +\S+Z +Requests per Month +1 +RateLimitTier free spec\.limits\.rates\[metric=Requests,per=Month\]\.max\n$`
	if !regexp.MustCompile(shape).MatchString(text) {
		t.Errorf("got\n%s", text)
	}
	var got struct {
		Shadow []ratelimit.Shadow
		More   int
	}
	if err := json.Unmarshal([]byte(mustRun(t, "shadow", "--admin", at, "-o", "json")), &got); err != nil || len(got.Shadow) != 1 || got.Shadow[0].Count != 3 {
		t.Errorf("got %+v, error %v", got, err)
	}
}
