package policy_test

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/internal/golden"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestTheNameOfACounterStays holds the form of Limit.Counter: stores keep counts by it, so a new form loses every count.
func TestTheNameOfACounterStays(t *testing.T) {
	t.Parallel()
	table, _, _ := compileCase(t, filepath.Join("testdata", "every-scope-holds-at-once"))
	credential, _ := table.Quota(policy.Name{Namespace: "team-a", Name: "app"})
	var got []string
	for _, l := range table.Resolve(nil, credential.Holder, "gpt-4o", "chat").Limits {
		got = append(got, l.Counter)
	}
	want := []string{
		`Key "team-a/app" "" Requests Minute FixedWindow`,
		`KeyResource "team-a/app" "chat" Requests Minute FixedWindow`,
		`KeyModel "team-a/app" "model:gpt-*" Requests Minute FixedWindow`,
		`User "team-a/ann@example.com" "" Requests Minute FixedWindow`,
		`UserResource "team-a/ann@example.com" "chat" Requests Minute FixedWindow`,
		`UserModel "team-a/ann@example.com" "model:gpt-*" Requests Minute FixedWindow`,
		`ModelShared "gpt" "" Requests Minute FixedWindow`,
		`ModelShared "gpt" "" ConcurrentRequests  FixedWindow`,
		`ModelShared "all" "" Requests Minute FixedWindow`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// TestNobodyPosesAsAnother gives users and models names that end one part of a counter's name and begin another.
func TestNobodyPosesAsAnother(t *testing.T) {
	t.Parallel()
	counters := map[string]string{}
	for _, user := range []string{`a`, `a" "`, `a" "model:b`, `a\`, `a\"`, "a\x00", "a\n", "ä"} {
		for _, model := range []string{`b`, `b" `, `" "b`, `b\`} {
			limits := *limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 1)
			in := single(v1alpha1.KeyLimits{}, v1alpha1.RateLimitTierSpec{}, nil)
			in.Quotas[0].Spec.User = user
			in.Users = []*v1alpha1.UserQuota{{Spec: v1alpha1.UserQuotaSpec{
				User: user, KeyLimits: v1alpha1.KeyLimits{Models: []v1alpha1.ModelLimits{{Model: model, Limits: limits}}},
			}}}
			in.Users[0].Namespace = "team-a"
			table, _ := policy.Compile(in)
			got := table.Resolve(nil, holder(table), model, "").Limits
			if len(got) != 1 {
				t.Fatalf("user %q, model %q: got %d limits, want 1", user, model, len(got))
			}
			who := user + " | " + model
			if other, taken := counters[got[0].Counter]; taken {
				t.Errorf("%q and %q share the counter %s", who, other, got[0].Counter)
			}
			counters[got[0].Counter] = who
		}
	}
}

// TestNoKeyIsShown looks for API keys in everything that a compilation of the golden cases hands out.
func TestNoKeyIsShown(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata", "in.yaml") {
		table, _, verdicts := compileCase(t, filepath.Join("testdata", name))
		for what, v := range map[string]any{"table": table, "verdicts": verdicts, "accepted": table.Accepted()} {
			if shown := line(t, v); bytes.Contains([]byte(shown), []byte("sk-")) {
				t.Errorf("case %s: the %s show an API key: %s", name, what, shown)
			}
		}
	}
}

// TestWhatCannotBeReadGoesOn: after a restart at which the manifests of a quota and its gateway cannot be read, both are as
// they were, key and limits included; what nobody lost stays away.
func TestWhatCannotBeReadGoesOn(t *testing.T) {
	t.Parallel()
	whole := single(v1alpha1.KeyLimits{}, v1alpha1.RateLimitTierSpec{Priority: v1alpha1.PriorityHigh}, nil)
	before, _ := policy.Compile(whole)
	broken := whole
	broken.Quotas, broken.Gateways, broken.Tiers, broken.LastAccepted = nil, nil, nil, restarted(t, before.Accepted())
	for name, tc := range map[string]struct {
		lost bool
		want int
	}{"lost": {true, 1}, "deleted": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := broken
			in.LastAccepted.Restore(&in, func(policy.Object) bool { return tc.lost })
			after, _ := policy.Compile(in)
			known := 0
			for _, k := range before.Accepted().Quotas["team-a/app"].Keys {
				d, _ := policy.ParseDigest(k.Digest)
				if c, ok := after.Lookup(d); ok && c.Holder != nil && c.Holder.Priority == 3 {
					known++
				}
			}
			if known != tc.want || len(after.Accepted().Quotas) != tc.want {
				t.Errorf("%d keys are known and %d quotas go on, want %d", known, len(after.Accepted().Quotas), tc.want)
			}
		})
	}
}

// TestWhatWasRevokedStaysRevoked: neither a restart without the manifest nor a mistake in it brings back a key that was
// suspended, removed or had expired.
func TestWhatWasRevokedStaysRevoked(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		revoke func(*v1alpha1.ApiKeyQuotaSpec)
		want   policy.Standing
	}{
		"suspended": {func(q *v1alpha1.ApiKeyQuotaSpec) { q.DesiredState = v1alpha1.DesiredStateSuspended }, policy.Suspended},
		"expired":   {func(q *v1alpha1.ApiKeyQuotaSpec) { q.ExpirationTime = &metav1.Time{Time: day} }, policy.Expired},
		"removed":   {func(q *v1alpha1.ApiKeyQuotaSpec) { q.Keys[0].Digest = digest(1) }, policy.Active},
	} {
		for _, tier := range []string{"t0", "gone"} {
			t.Run(name+" on tier "+tier, func(t *testing.T) {
				t.Parallel()
				in := single(v1alpha1.KeyLimits{}, v1alpha1.RateLimitTierSpec{}, nil)
				first, _ := policy.Compile(in)
				in.LastAccepted = restarted(t, first.Accepted())
				tc.revoke(&in.Quotas[0].Spec)
				in.Quotas[0].Spec.TierRef.Name = tier
				second, _ := policy.Compile(in)

				unreadable := policy.Input{LastAccepted: restarted(t, second.Accepted())}
				unreadable.LastAccepted.Restore(&unreadable, func(policy.Object) bool { return true })
				third, _ := policy.Compile(unreadable)
				c, found := third.Quota(policy.Name{Namespace: "team-a", Name: "app"})
				if !found || c.Standing(day) != tc.want {
					t.Errorf("the quota is %+v, want it %s", c, tc.want)
				}
				d, _ := policy.ParseDigest(digest(0))
				if _, known := third.Lookup(d); known && name == "removed" {
					t.Error("the key is known again")
				}
			})
		}
	}
}

// TestCanonicalKnowsTheModelsOfAFormerTier asks for a model that only a tier names which is gone, but which a gateway that
// is not accepted still assigns.
func TestCanonicalKnowsTheModelsOfAFormerTier(t *testing.T) {
	t.Parallel()
	table, _, _ := compileCase(t, filepath.Join("testdata", "a-rejected-gateway-goes-on-as-before"))
	if got := table.Canonical("gpt-4o"); got != "gpt-4o" {
		t.Errorf("got %q", got)
	}
}

// TestEachQuotaKeepsTheTierItWasAcceptedOn has two quotas accepted on one tier before and after it changed.
func TestEachQuotaKeepsTheTierItWasAcceptedOn(t *testing.T) {
	t.Parallel()
	in := single(v1alpha1.KeyLimits{}, v1alpha1.RateLimitTierSpec{}, nil)
	in.Quotas = append(in.Quotas, in.Quotas[0].DeepCopy())
	in.Quotas[1].Name, in.Quotas[1].Spec.Keys[0].Digest = "second", digest(1)
	for i, most := range []int64{10, 20} {
		in.Tiers[0].Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, most)
		table, _ := policy.Compile(in)
		in.LastAccepted = restarted(t, table.Accepted())
		in.Quotas[i].Spec.TierRef.Name = "gone"
	}
	in.Tiers = nil
	table, _ := policy.Compile(in)
	for name, want := range map[string]int64{"app": 10, "second": 20} {
		credential, _ := table.Quota(policy.Name{Namespace: "team-a", Name: name})
		limits := table.Resolve(nil, credential.Holder, "", "").Limits
		if len(limits) != 1 || limits[0].Max != want {
			t.Errorf("%s: got %v, want one limit of %d", name, limits, want)
		}
	}
}

func TestClientNetwork(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"203.0.113.9":          "203.0.113.9",
		"::ffff:203.0.113.9":   "203.0.113.9",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
		"fe80::1%eth0":         "fe80::",
		"::1":                  "::",
	} {
		if got := policy.ClientNetwork(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if got := policy.ClientNetwork(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: got %s", got)
	}
}

func TestKeyIn(t *testing.T) {
	t.Parallel()
	bearer, bare := policy.KeySource{Header: "authorization", Prefix: "Bearer "}, policy.KeySource{Header: "x-api-key"}
	for name, tc := range map[string]struct {
		source policy.KeySource
		value  string
		want   string // empty: no key
	}{
		"after the prefix":           {bearer, "Bearer sk-1", "sk-1"},
		"after the prefix in case":   {bearer, "bEARER sk-1", "sk-1"},
		"white space around":         {bearer, " Bearer   sk-1\t", "sk-1"},
		"another scheme":             {bearer, "Basic sk-1", ""},
		"no prefix":                  {bearer, "sk-1", ""},
		"nothing after the prefix":   {bearer, "Bearer ", ""},
		"a prefix run into the key":  {bearer, "Bearersk-1", ""},
		"a letter that folds to one": {policy.KeySource{Prefix: "Key "}, "\u212aey sk-1", ""},
		"without prefix":             {bare, " sk-1 ", "sk-1"},
		"empty":                      {bare, "", ""},
		"nothing but white space":    {bare, " \t", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := tc.source.KeyIn(tc.value)
			if got != tc.want || ok != (tc.want != "") {
				t.Errorf("got %q, %t, want %q", got, ok, tc.want)
			}
		})
	}
}

func TestGatewaysAreListedByName(t *testing.T) {
	t.Parallel()
	table, _, _ := compileCase(t, filepath.Join("testdata", "a-gateway-serves-the-keys-it-allows"))
	var got []string
	for _, g := range table.Gateways() {
		got = append(got, g.Name.String())
	}
	if diff := cmp.Diff([]string{"edge/all", "edge/by-name", "edge/paid", "edge/same", "edge/unsaid"}, got); diff != "" {
		t.Errorf("gateways (-want +got):\n%s", diff)
	}
}
