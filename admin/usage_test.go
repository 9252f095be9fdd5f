package admin_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// limiting is a limiter at noon with quotas of these names on a tier of 10 requests a day.
func limiting(t *testing.T, quotas ...string) *ratelimit.Limiter {
	t.Helper()
	tier := v1alpha1.RateLimitTier{}
	tier.Name = "free"
	tier.Spec.Limits = &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerDay, Max: new(int64(10))}}}
	in := policy.Input{Tiers: []*v1alpha1.RateLimitTier{&tier}}
	for _, name := range quotas {
		q := v1alpha1.ApiKeyQuota{}
		q.Namespace, q.Name, _ = strings.Cut(name, "/")
		q.Spec.TierRef.Name = "free"
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(name)).String()}}
		in.Quotas = append(in.Quotas, &q)
	}
	table, _ := policy.Compile(in)
	l := ratelimit.New(memory.New(), []byte("secret"), ratelimit.WithClock(func() time.Time { return noon }))
	l.SetTable(table)
	return l
}

func TestUsageIsAsked(t *testing.T) {
	t.Parallel()
	c := client(t, serve(t, limiting(t, "team/alice", "other/bob"), token).URL, token)
	alice := ratelimit.KeyUsage{Key: "team/alice", Limits: []ratelimit.LimitUse{{
		Scope: "Key", Metric: "Requests", Per: "Day", Algorithm: "FixedWindow", Max: 10, Remaining: 10, Reset: noon.Add(12 * time.Hour),
		Origin: policy.Origin{Kind: policy.KindTier, Name: "free", Field: "spec.limits.rates[metric=Requests,per=Day].max"},
	}}}
	one, err := c.KeyUsage(t.Context(), policy.Name{Namespace: "team", Name: "alice"})
	if diff := cmp.Diff(admin.Usages{Usage: []ratelimit.KeyUsage{alice}}, one); diff != "" || err != nil {
		t.Errorf("error %v, usage (-want +got):\n%s", err, diff)
	}
	of, err := c.KeyUsages(t.Context(), "team")
	if diff := cmp.Diff(one, of); diff != "" || err != nil {
		t.Errorf("error %v, usage (-want +got):\n%s", err, diff)
	}
	if all, err := c.KeyUsages(t.Context(), ""); len(all.Usage) != 2 || all.More != 0 || err != nil {
		t.Errorf("got %v, error %v, want two", all, err)
	}
	if _, err := c.KeyUsage(t.Context(), policy.Name{Namespace: "team", Name: "bob"}); err == nil ||
		err.Error() != "There is no ApiKeyQuota team/bob, or it was never accepted. GET /admin/usage lists those that are in force." {
		t.Errorf("got error %v", err)
	}
}

// TestUsageOfOneReplicaSaysThatItIs, which the figures do not.
func TestUsageOfOneReplicaSaysThatItIs(t *testing.T) {
	t.Parallel()
	for _, out := range []bool{false, true} {
		c := client(t, serve(t, withStoreOut{limiting(t, "team/alice"), out}, token).URL, token)
		if one, err := c.KeyUsage(t.Context(), policy.Name{Namespace: "team", Name: "alice"}); one.Alone != out || err != nil {
			t.Errorf("of one key: alone %v, error %v, want %v", one.Alone, err, out)
		}
		if all, err := c.KeyUsages(t.Context(), ""); all.Alone != out || err != nil {
			t.Errorf("of all: alone %v, error %v, want %v", all.Alone, err, out)
		}
	}
}

// withStoreOut is a limiter whose store is out, or not.
type withStoreOut struct {
	*ratelimit.Limiter

	out bool
}

func (l withStoreOut) Alone() bool { return l.out }

func TestUsageAnswersWhoAsksWrongly(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]struct {
		status int
		body   string
	}{
		"?key=alice":                {400, `{"error":{"message":"Ask for one key, by key=NAMESPACE/NAME of its ApiKeyQuota, or for all keys of one namespace, by namespace=NAMESPACE."}}`},
		"?key=team/":                {400, ""},
		"?key=/alice":               {400, ""},
		"?key=a/b&namespace=a":      {400, ""},
		"?key=team/bob":             {404, ""},
		"?namespace=none":           {200, `{"usage":[],"more":0}`},
		"?key=team%2Falice&other=1": {200, ""},
		"":                          {200, ""},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/admin/usage"+query, http.NoBody)
		admin.Handler(limiting(t, "team/alice"), "").ServeHTTP(w, r)
		if got := strings.TrimSpace(w.Body.String()); w.Code != want.status || want.body != "" && got != want.body {
			t.Errorf("%q: %d %s, want %d %s", query, w.Code, got, want.status, want.body)
		}
	}
}

// TestUsageSaysThatTheStoreIsOutWhenItIsFoundOut by the very question.
func TestUsageSaysThatTheStoreIsOutWhenItIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*admin.Client) (admin.Usages, error){
		"one": func(c *admin.Client) (admin.Usages, error) {
			return c.KeyUsage(t.Context(), policy.Name{Namespace: "team", Name: "alice"})
		},
		"all": func(c *admin.Client) (admin.Usages, error) { return c.KeyUsages(t.Context(), "") },
	} {
		found := &foundOut{Limiter: limiting(t, "team/alice")}
		if list, err := ask(client(t, serve(t, found, token).URL, token)); !list.Alone || err != nil {
			t.Errorf("of %s: alone %v, error %v, want true", name, list.Alone, err)
		}
	}
}

// foundOut is a service whose store is out since somebody looked at it.
type foundOut struct {
	*ratelimit.Limiter

	out bool
}

func (f *foundOut) Alone() bool { return f.out }

func (f *foundOut) KeyUsage(ctx context.Context, quota policy.Name) (ratelimit.KeyUsage, bool, error) {
	f.out = true
	return f.Limiter.KeyUsage(ctx, quota)
}

func (f *foundOut) KeyUsages(ctx context.Context, namespace string, most int) ([]ratelimit.KeyUsage, int, error) {
	f.out = true
	return f.Limiter.KeyUsages(ctx, namespace, most)
}
