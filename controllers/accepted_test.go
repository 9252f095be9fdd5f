package controllers

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// written is a quota on a tier, and a gateway, as an API server would have them.
func written(generation, limit int64) policy.Input {
	limits := v1alpha1.KeyLimits{Limits: &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMinute, Max: &limit}}}}
	tier := v1alpha1.RateLimitTier{ObjectMeta: metav1.ObjectMeta{Name: "free"}, Spec: v1alpha1.RateLimitTierSpec{KeyOverrides: v1alpha1.KeyOverridesAny}}
	q := v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "app", Generation: generation}}
	q.Spec.KeyLimits, q.Spec.TierRef.Name, q.Spec.User = limits, "free", "ann"
	q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: "keys", Key: "app"}}}
	g := v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "main", Generation: generation}}
	g.Spec.Listeners = []v1alpha1.Listener{{Name: "http", Port: 8080, Protocol: v1alpha1.ListenerProtocolHTTP}}
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	return policy.Input{
		Tiers: []*v1alpha1.RateLimitTier{&tier}, Quotas: []*v1alpha1.ApiKeyQuota{&q}, Gateways: []*v1alpha1.QuotaGateway{&g},
		Secrets: map[policy.Name]policy.Secret{{Namespace: "team-a", Name: "keys"}: policy.ReadSecret("Opaque", map[string][]byte{"app": []byte("sk-app")})},
	}
}

// kept writes into status what a compilation accepted.
func kept(in *policy.Input, accepted bool) {
	table, _ := policy.Compile(*in)
	in.Quotas[0].Status.LastAccepted = quotaLastAccepted(table, quota.Name, accepted)
	in.Gateways[0].Status.LastAccepted = gatewayLastAccepted(table, edge.Name)
}

// TestARestartGoesOnByStatus: a replica that remembers nothing gives the limits, and the key whose Secret is gone, as they were.
func TestARestartGoesOnByStatus(t *testing.T) {
	t.Parallel()
	for name, tierKept := range map[string]bool{"while the tier is there": true, "after the tier was deleted": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := written(1, 7)
			kept(&in, tierKept)
			in.Secrets = nil
			if !tierKept {
				in.Tiers = nil
			}
			in.LastAccepted = lastAccepted(&policy.Table{}, in.Quotas, in.Gateways)
			table, _ := policy.Compile(in)
			c, found := table.Lookup(policy.HashKey([]byte("sk-app")))
			if !found || c.Holder == nil {
				t.Fatalf("the key is known: %t, and has limits: %t", found, found && c.Holder != nil)
			}
			if got := table.Resolve(nil, c.Holder, "", "").Limits; len(got) != 1 || got[0].Max != 7 {
				t.Errorf("limits are %v, want one of 7", got)
			}
		})
	}
}

// TestStatusIsReadWhereItDecides: where the operator has refused an object as it is, all replicas go by what it wrote; elsewhere by
// what they remember.
func TestStatusIsReadWhereItDecides(t *testing.T) {
	t.Parallel()
	former := written(1, 7)
	kept(&former, false)
	status := former.Quotas[0].Status
	for name, tc := range map[string]struct {
		refused *metav1.Condition
		want    int64
	}{
		"nobody has judged it yet":          {nil, 9},
		"it was refused as it is":           {&metav1.Condition{Status: metav1.ConditionFalse, ObservedGeneration: 3}, 7},
		"it was refused as it was":          {&metav1.Condition{Status: metav1.ConditionFalse, ObservedGeneration: 2}, 9},
		"it was accepted, and then changed": {&metav1.Condition{Status: metav1.ConditionTrue, ObservedGeneration: 3}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			remembered := written(2, 9)
			var compiler policy.Compiler
			table, _ := compiler.Compile(remembered)
			now := written(3, 100)
			now.Quotas[0].Status = status
			if tc.refused != nil {
				c := *tc.refused
				c.Type = v1alpha1.ConditionAccepted
				now.Quotas[0].Status.Conditions = []metav1.Condition{c}
			}
			now.Tiers, now.LastAccepted = nil, lastAccepted(table, now.Quotas, now.Gateways)
			after, _ := compiler.Compile(now)
			if got := *after.AcceptedQuota(quota.Name).Limits.Limits.Rates[0].Max; got != tc.want {
				t.Errorf("it would go on with %d, want %d", got, tc.want)
			}
			if got := *table.AcceptedQuota(quota.Name).Limits.Limits.Rates[0].Max; got != 9 {
				t.Errorf("what the table remembers is %d now, want 9 as before", got)
			}
		})
	}
}

func TestRecordsAreComparedAsTheAPIServerGivesThemBack(t *testing.T) {
	t.Parallel()
	in := written(1, 9007199254740991)
	kept(&in, false)
	for _, last := range []*v1alpha1.LastAccepted{in.Quotas[0].Status.LastAccepted, in.Gateways[0].Status.LastAccepted} {
		plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(last)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		var back v1alpha1.LastAccepted
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if !sameRecord(last, &back) {
			t.Errorf("it comes back as\n%s, and was\n%s", back.Spec.Raw, last.Spec.Raw)
		}
	}
}

func TestWhatCannotBeReadCountsAsNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`null`, `[]`, `{"tierRef":{}}`, `{"tierRef":"x"}`, `{`, ``} {
		in := written(1, 1)
		in.Quotas[0].Status.LastAccepted = &v1alpha1.LastAccepted{Generation: 1, Spec: &runtime.RawExtension{Raw: []byte(text)}}
		in.Gateways[0].Status.LastAccepted = in.Quotas[0].Status.LastAccepted
		if got := lastAccepted(&policy.Table{}, in.Quotas, in.Gateways); len(got.Quotas)+len(got.Gateways) != 0 {
			t.Errorf("of %q it makes %+v, want nothing", text, got)
		}
	}
	if diff := cmp.Diff((*v1alpha1.LastAccepted)(nil), quotaLastAccepted(&policy.Table{}, quota.Name, true)); diff != "" {
		t.Errorf("of nothing it writes (-want +got):\n%s", diff)
	}
}
