package command_test

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// usedAt is the admin address of a service with quotas of a tier of 4,000 requests a month, of which each had so many.
func usedAt(t *testing.T, requests map[string]int) string {
	t.Helper()
	tier := v1alpha1.RateLimitTier{}
	tier.Name = "free"
	tier.Spec.Limits = &v1alpha1.Limits{
		Rates:       []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMonth, Max: new(int64(4000))}},
		Concurrency: &v1alpha1.Concurrency{Max: new(int32(50))},
	}
	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name = "edge", "main"
	g.Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesAll}}
	g.Spec.Identity = v1alpha1.Identity{Sources: []v1alpha1.KeySource{{Header: "x-api-key"}}}
	in := policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}, Tiers: []*v1alpha1.RateLimitTier{&tier}}
	for name := range requests {
		q := v1alpha1.ApiKeyQuota{}
		q.Namespace, q.Name, _ = strings.Cut(name, "/")
		q.Spec.TierRef.Name = "free"
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(name)).String()}}
		in.Quotas = append(in.Quotas, &q)
	}
	table, _ := policy.Compile(in)
	l := ratelimit.New(memory.New(), []byte("secret"), atOneTime())
	l.SetTable(table)
	for name, n := range requests {
		for range n {
			r := &descriptor.Reserve{
				Credentials: []descriptor.Credential{descriptor.NewCredential("x-api-key", "", name)}, Client: "192.0.2.1",
				Gateway: "edge/main", Resource: "chat", Model: "m",
			}
			if d, err := l.Reserve(t.Context(), r); err != nil || d.Status != 0 {
				t.Fatalf("%s got status %d and error %v", name, d.Status, err)
			}
		}
	}
	s := httptest.NewServer(admin.Handler(l, ""))
	t.Cleanup(s.Close)
	return s.URL
}

func TestUsageShowsWhatKeysUse(t *testing.T) {
	t.Parallel()
	at := usedAt(t, map[string]int{"team-a/ci": 10, "team-a/cd": 25, "default/main": 0})
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"one key": {
			[]string{"team-a/ci"},
			`Usage of ApiKeyQuota team-a/ci:\n\n` +
				`SCOPE +OF +METRIC +PER +USED +MAX +LEFT +% +RESETS IN +FROM\n` +
				`Key +- +Requests +Month +10 +4,000 +3,990 +0 +\d\S*s +RateLimitTier free spec\.limits\.rates\[metric=Requests,per=Month\]\.max\n` +
				`Key +- +ConcurrentRequests +- +10 +50 +40 +20 +- +RateLimitTier free spec\.limits\.concurrency\.max\n`,
		},
		"a key of the namespace default": {[]string{"main"}, `Usage of ApiKeyQuota default/main:\n\n(?s).*Month +0 +4,000 +4,000 +0 +- .*`},
		"a key of a namespace":           {[]string{"-n", "team-a", "cd"}, `Usage of ApiKeyQuota team-a/cd:\n\n(?s).*`},
		"all keys": {
			nil,
			`KEY +% +USED +MAX +RESETS IN +LIMIT\n` +
				`team-a/cd +50 +25 +50 +- +Key/ConcurrentRequests\n` +
				`team-a/ci +20 +10 +50 +- +Key/ConcurrentRequests\n` +
				`default/main +0 +0 +4,000 +- +Key/Requests/Month\n`,
		},
		"all keys of a namespace": {[]string{"--namespace", "default"}, `KEY .*\ndefault/main .*\n`},
		"no keys":                 {[]string{"-n", "none"}, `There is no ApiKeyQuota in force in namespace none\.\n`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustRun(t, append([]string{"usage", "--admin", at}, tc.args...)...)
			if !regexp.MustCompile("^" + tc.want + "$").MatchString(got) {
				t.Errorf("got\n%s", got)
			}
		})
	}
}

func TestUsageInJSON(t *testing.T) {
	t.Parallel()
	at := usedAt(t, map[string]int{"team-a/ci": 10, "team-a/cd": 25})
	var one ratelimit.KeyUsage
	if err := json.Unmarshal([]byte(mustRun(t, "usage", "--admin", at, "team-a/ci", "-o", "json")), &one); err != nil {
		t.Fatal(err)
	}
	if len(one.Limits) != 2 || one.Limits[0].Used != 10 || one.Limits[0].Remaining != 3990 || one.Limits[0].Reset.IsZero() || !one.Limits[1].Reset.IsZero() {
		t.Errorf("got %+v", one)
	}
	var all struct {
		Usage []ratelimit.KeyUsage
		More  int
	}
	if err := json.Unmarshal([]byte(mustRun(t, "usage", "--admin", at, "-o", "json")), &all); err != nil || len(all.Usage) != 2 || all.Usage[0].Key != "team-a/cd" {
		t.Errorf("got %+v, error %v", all, err)
	}
}

func TestUsageSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	at := usedAt(t, map[string]int{"team-a/ci": 0})
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no address":    {[]string{"team-a/ci"}, 2, "flag --admin is missing"},
		"two keys":      {[]string{"--admin", at, "a", "b"}, 2, "name one ApiKeyQuota as NAMESPACE/NAME, or none for all"},
		"two places":    {[]string{"--admin", at, "-n", "team-b", "team-a/ci"}, 2, "team-a/ci names its namespace, so leave out -n"},
		"no such key":   {[]string{"--admin", at, "team-a/c"}, 1, "There is no ApiKeyQuota team-a/c, or it was never accepted. The command usage lists those that are in force."},
		"half a name":   {[]string{"--admin", at, "team-a/"}, 1, "Ask for one key, by key=NAMESPACE/NAME"},
		"nobody there":  {[]string{"--admin", "127.0.0.1:1"}, 1, "asking the service"},
		"unknown shape": {[]string{"--admin", at, "-o", "xml"}, 2, "must be one of text, json, yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, _, stderr := run(t, append([]string{"usage"}, tc.args...)...); code != tc.code || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit code %d, want %d, and %q, want %q in it", code, tc.code, stderr, tc.says)
			}
		})
	}
}

// A variable is the process's, so no other test runs meanwhile.
func TestUsageTakesTheAddressFromTheEnvironment(t *testing.T) {
	t.Setenv("TIERKEEPER_ADMIN", usedAt(t, map[string]int{"team-a/ci": 1}))
	if got := mustRun(t, "usage"); !strings.Contains(got, "team-a/ci") {
		t.Errorf("want the keys of the service, got\n%s", got)
	}
	if code, _, stderr := run(t, "usage", "--admin", "127.0.0.1:1"); code != 1 || !strings.Contains(stderr, "asking the service") {
		t.Errorf("exit code %d and %q: the flag goes first", code, stderr)
	}
	if got := mustComplete(t, "__complete", "usage", ""); len(got) != 1 || got[0] != "team-a/ci" {
		t.Errorf("completed by %q", got)
	}
}

func TestUsageCompletesWhatTheServiceKnows(t *testing.T) {
	t.Parallel()
	at := usedAt(t, map[string]int{"team-a/ci": 1, "team-a/cd": 2, "team-b/ci": 0})
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"keys":                {[]string{"--admin", at, ""}, []string{"team-a/cd", "team-a/ci", "team-b/ci"}},
		"keys of a namespace": {[]string{"--admin", at, "-n", "team-a", ""}, []string{"cd", "ci"}},
		"one key is enough":   {[]string{"--admin", at, "team-a/ci", ""}, nil},
		"namespaces":          {[]string{"--admin", at, "-n", ""}, []string{"team-a", "team-b"}},
		"without a service":   {[]string{""}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := mustComplete(t, append([]string{"__complete", "usage"}, tc.args...)...)
			if diff := cmp.Diff(tc.want, out); diff != "" {
				t.Errorf("completions (-want +got):\n%s", diff)
			}
		})
	}
}

// mustComplete lists what a shell is offered.
func mustComplete(t *testing.T, args ...string) []string {
	t.Helper()
	code, out, stderr := run(t, args...)
	offered, directive, found := strings.Cut("\n"+out, "\n:")
	if code != 0 || !found || !strings.HasPrefix(directive, "4") {
		t.Fatalf("exit code %d, %q and %q", code, out, stderr)
	}
	if offered == "" {
		return nil
	}
	return strings.Split(offered[1:], "\n")
}
