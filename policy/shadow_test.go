package policy_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestShadowStandsBesideWhatHolds draws what is enforced and what is not, and compares with the same objects where all is
// enforced, and where those that are not say nothing.
func TestShadowStandsBesideWhatHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		in := single(w.keyLimits(), v1alpha1.RateLimitTierSpec{KeyLimits: w.keyLimits(), KeyOverrides: v1alpha1.KeyOverridesAny}, w.groups(true))
		w.selecting(&in)
		in.Users = []*v1alpha1.UserQuota{{ObjectMeta: w.meta("team-a", "ann"), Spec: v1alpha1.UserQuotaSpec{User: "ann", KeyLimits: w.keyLimits()}}}
		for i := range in.Models {
			if in.Models[i].Spec.Shared == nil {
				in.Models[i].Spec.Capacity = w.capacity()
			}
		}
		full, _ := policy.Compile(in)
		shadow, silent := w.shadowed(in)
		table, _ := policy.Compile(shadow)
		bare, _ := policy.Compile(silent)
		if holder(table) == nil {
			return // There are too many limits where some are counted twice.
		}
		for _, model := range asked {
			for _, resource := range askedResources {
				ask := func(table *policy.Table) []policy.Limit {
					return table.Resolve(table.Gateways()[0], holder(table), model, resource).Limits
				}
				got := ask(table)
				if diff := cmp.Diff(shown(ask(bare), false), shown(enforced(got), false)); diff != "" {
					t.Fatalf("model %q, resource %q: what is enforced differs from what holds without the rest (-want +got):\n%s", model, resource, diff)
				}
				if diff := cmp.Diff(shown(originating(ask(full), shadow), true), shown(recorded(got), true)); diff != "" {
					t.Fatalf("model %q, resource %q: what is recorded differs from what would hold (-want +got):\n%s", model, resource, diff)
				}
				checkCounters(t, got)
			}
		}
	})
}

// TestAShadowGatewayRecordsWhatWouldHold asks the same table at a gateway that enforces and at one that does not.
func TestAShadowGatewayRecordsWhatWouldHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		in := single(w.keyLimits(), v1alpha1.RateLimitTierSpec{KeyLimits: w.keyLimits(), KeyOverrides: v1alpha1.KeyOverridesAny}, w.groups(true))
		w.selecting(&in)
		full, _ := policy.Compile(in)
		in.Gateways[0].Spec.Enforcement = v1alpha1.EnforcementShadow
		table, _ := policy.Compile(in)
		for _, model := range asked {
			want := full.Resolve(full.Gateways()[0], holder(full), model, "chat").Limits
			got := table.Resolve(table.Gateways()[0], holder(table), model, "chat").Limits
			if len(enforced(got)) > 0 {
				t.Fatalf("model %q: %v are enforced", model, enforced(got))
			}
			for i := range want {
				want[i].Shadow = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("model %q: what is recorded differs from what would hold (-want +got):\n%s", model, diff)
			}
		}
	})
}

// TestWhatIsRecordedFitsIntoALeaseToo counts the limits of a quota where some objects are not enforced.
func TestWhatIsRecordedFitsIntoALeaseToo(t *testing.T) {
	t.Parallel()
	var refused int
	rapid.Check(t, func(t *rapid.T) {
		w := dense(t)
		in := single(w.keyLimits(), v1alpha1.RateLimitTierSpec{KeyLimits: w.keyLimits(), KeyOverrides: v1alpha1.KeyOverridesAny}, w.groups(true))
		in.Users = []*v1alpha1.UserQuota{{ObjectMeta: w.meta("team-a", "ann"), Spec: v1alpha1.UserQuotaSpec{User: "ann", KeyLimits: w.keyLimits()}}}
		in, _ = w.shadowed(in)
		table, _ := policy.Compile(in)
		h := holder(table)
		if h == nil {
			refused++
			return
		}
		for _, model := range asked {
			for _, resource := range askedResources {
				if limits := table.Resolve(nil, h, model, resource).Limits; len(limits) > policy.MaxLimits {
					t.Fatalf("with model %q and resource %q %d limits are met", model, resource, len(limits))
				}
			}
		}
	})
	if refused == 0 {
		t.Error("nothing was refused, so half of this was not tested")
	}
}

// shadowed draws which objects are not enforced; in silent those say nothing.
func (w world) shadowed(in policy.Input) (shadow, silent policy.Input) {
	shadow, silent = in, in
	shadow.Tiers, silent.Tiers = copies(in.Tiers), copies(in.Tiers)
	shadow.Quotas, silent.Quotas = copies(in.Quotas), copies(in.Quotas)
	shadow.Users, silent.Users = copies(in.Users), copies(in.Users)
	shadow.Models, silent.Models = copies(in.Models), copies(in.Models)
	if w.chance(2, "tier") {
		shadow.Tiers[0].Spec.Enforcement, silent.Tiers[0].Spec.KeyLimits = v1alpha1.EnforcementShadow, v1alpha1.KeyLimits{}
	}
	if w.chance(2, "quota") {
		shadow.Quotas[0].Spec.Enforcement, silent.Quotas[0].Spec.KeyLimits = v1alpha1.EnforcementShadow, v1alpha1.KeyLimits{}
	}
	if w.chance(2, "user") {
		shadow.Users[0].Spec.Enforcement, silent.Users[0].Spec.KeyLimits = v1alpha1.EnforcementShadow, v1alpha1.KeyLimits{}
	}
	for i := range in.Models {
		if w.chance(2, "model") {
			shadow.Models[i].Spec.Enforcement = v1alpha1.EnforcementShadow
			spec := &silent.Models[i].Spec
			spec.Shared, spec.PerKey, spec.Capacity = nil, nil, nil
		}
	}
	return shadow, silent
}

func enforced(limits []policy.Limit) []policy.Limit {
	return slices.DeleteFunc(slices.Clone(limits), func(l policy.Limit) bool { return l.Shadow })
}

func recorded(limits []policy.Limit) []policy.Limit {
	return slices.DeleteFunc(slices.Clone(limits), func(l policy.Limit) bool { return !l.Shadow })
}

// originating keeps the limits of objects that in does not enforce.
func originating(limits []policy.Limit, in policy.Input) []policy.Limit {
	return slices.DeleteFunc(slices.Clone(limits), func(l policy.Limit) bool {
		switch l.Origin.Kind {
		case policy.KindTier:
			return in.Tiers[0].Spec.Enforcement == ""
		case policy.KindQuota:
			return in.Quotas[0].Spec.Enforcement == ""
		case policy.KindUser:
			return in.Users[0].Spec.Enforcement == ""
		}
		i := slices.IndexFunc(in.Models, func(m *v1alpha1.ModelLimit) bool { return m.Name == l.Origin.Name })
		return in.Models[i].Spec.Enforcement == ""
	})
}

// shown leaves out whether a limit is enforced and, where asked, what it counts on.
func shown(limits []policy.Limit, anyCounter bool) []policy.Limit {
	out := make([]policy.Limit, 0, len(limits))
	for _, l := range limits {
		l.Shadow = false
		if anyCounter {
			l.Counter = ""
		}
		out = append(out, l)
	}
	return out
}

func checkCounters(t *rapid.T, limits []policy.Limit) {
	t.Helper()
	seen := map[string]bool{}
	for _, l := range limits {
		if seen[l.Counter] {
			t.Fatalf("two of the limits count on %s: %v", l.Counter, limits)
		}
		seen[l.Counter] = true
	}
}
