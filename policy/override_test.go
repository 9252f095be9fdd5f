package policy_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// traffic is requests in any order, and then all there are again and again, so that every limit is met.
func (w world) traffic() []request {
	one := rapid.Custom(func(t *rapid.T) request {
		return request{rapid.SampledFrom(asked).Draw(t, "model"), rapid.SampledFrom(askedResources).Draw(t, "resource"), int64(rapid.IntRange(1, 2).Draw(t, "tokens"))}
	})
	requests := rapid.SliceOfN(one, 0, 20).Draw(w.T, "traffic")
	for _, model := range rapid.Permutation(asked).Draw(w.T, "order") {
		for range 5 {
			requests = append(requests, request{model, pick(w, askedResources, "resource"), 1})
		}
	}
	return requests
}

// never fails if tight, counting for itself, lets a sequence of requests pass that does not fit into loose.
func never(t *rapid.T, requests []request, tight, loose func(model, resource string) []ceiling) {
	tightLedger, looseLedger := ledger{}, ledger{}
	midnight := rapid.IntRange(0, len(requests)).Draw(t, "midnight")
	for i, r := range requests {
		if i == midnight {
			tightLedger.midnight()
			looseLedger.midnight()
		}
		limits := tight(r.model, r.resource)
		if !tightLedger.admits(r, limits) {
			continue
		}
		if bound := loose(r.model, r.resource); !looseLedger.admits(r, bound) {
			t.Fatalf("request %d, %+v, passes under\n%v\nbut not under\n%v\ncounted %v", i, r, limits, bound, looseLedger)
		}
	}
}

// TestNoQuotaLetsMorePassThanItsTier plays traffic against a quota on a tier with keyOverrides Lower, and against the tier
// alone as the naive model reads it.
func TestNoQuotaLetsMorePassThanItsTier(t *testing.T) {
	t.Parallel()
	var accepted int
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		n := naive{tier: w.tier("t0").Spec.KeyLimits, groups: w.groups(true)}
		in := single(w.keyLimits(), v1alpha1.RateLimitTierSpec{KeyLimits: n.tier}, n.groups)
		n.groups = matching(n.groups, w.selecting(&in))
		table, verdicts := policy.Compile(in)
		if !verdictOn(verdicts, policy.KindQuota, "app").Accepted() {
			return
		}
		accepted++
		full := func(model, resource string) []ceiling {
			return ceilings(table.Resolve(table.Gateways()[0], holder(table), model, resource))
		}
		never(t, w.traffic(), full, n.limits)
	})
	if accepted == 0 {
		t.Error("no quota was accepted, so nothing was tested")
	}
}

// TestNoRejectedQuotaLetsMorePassThanItsTier does the same with a quota that was accepted before the models or the tier
// changed, or before its holder broke it, and holds it against its own limits too.
func TestNoRejectedQuotaLetsMorePassThanItsTier(t *testing.T) {
	t.Parallel()
	var rejected int
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		n := naive{tier: w.tier("t0").Spec.KeyLimits}
		in := single(w.keyLimits(), v1alpha1.RateLimitTierSpec{KeyLimits: n.tier}, nil)
		before, verdicts := policy.Compile(in)
		if !verdictOn(verdicts, policy.KindQuota, "app").Accepted() {
			return
		}
		in.LastAccepted = restarted(t, before.Accepted())
		in.Models = w.groups(true)
		n.groups = matching(in.Models, w.selecting(&in))
		if w.chance(2, "another tier") {
			n.tier = w.keyLimits()
			in.Tiers[0].Spec.KeyLimits = n.tier
		}
		if w.chance(2, "broken") {
			in.Quotas[0].Spec.TierRef.Name = "gone"
		}
		table, verdicts := policy.Compile(in)
		if verdictOn(verdicts, policy.KindQuota, "app").Accepted() {
			return
		}
		rejected++
		full := func(model, resource string) []ceiling {
			return ceilings(table.Resolve(table.Gateways()[0], holder(table), model, resource))
		}
		never(t, w.traffic(), full, n.limits)
		ownAlone := naive{own: in.Quotas[0].Spec.KeyLimits, groups: slices.Clone(n.groups)}
		for i := range ownAlone.groups {
			ownAlone.groups[i].Spec.PerKey = nil // The tier may replace it.
		}
		never(t, w.traffic(), full, ownAlone.limits)
	})
	if rejected == 0 {
		t.Error("no quota was rejected, so nothing was tested")
	}
}

// TestAQuotaMayRepeatAndLowerItsTier gives a quota the limits of its tier, some of them lower.
func TestAQuotaMayRepeatAndLowerItsTier(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		tier := v1alpha1.RateLimitTierSpec{KeyLimits: w.keyLimits()}
		own := *tier.KeyLimits.DeepCopy()
		for _, l := range places(&own) {
			for i, r := range l.Rates {
				if r.Max != nil {
					l.Rates[i].Max = new(min(*r.Max, *w.ceiling()))
				}
			}
		}
		_, verdicts := policy.Compile(single(own, tier, w.groups(true)))
		if v := verdictOn(verdicts, policy.KindQuota, "app"); !v.Accepted() {
			t.Fatalf("not accepted: %+v", v)
		}
	})
}

// TestAddingALimitNeverLoosens adds a limit for a pair about which nobody says anything at that scope. (A new name would
// be another matter: it gives its models a counter of their own.)
func TestAddingALimitNeverLoosens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		tier := v1alpha1.RateLimitTierSpec{KeyLimits: w.keyLimits(), KeyOverrides: v1alpha1.KeyOverridesAny}
		in := single(w.keyLimits(), tier, w.groups(true))
		before, _ := policy.Compile(in)

		extra := v1alpha1.Rate{Metric: v1alpha1.MetricOutputTokens, Per: v1alpha1.PerHour, Max: w.ceiling()}
		in.Quotas[0].Spec.KeyLimits = w.withRate(in.Quotas[0].Spec.KeyLimits, extra)
		after, verdicts := policy.Compile(in)
		if v := verdictOn(verdicts, policy.KindQuota, "app"); !v.Accepted() {
			t.Fatal(v)
		}
		never(t, w.traffic(),
			func(model, resource string) []ceiling {
				return ceilings(after.Resolve(nil, holder(after), model, resource))
			},
			func(model, resource string) []ceiling {
				return ceilings(before.Resolve(nil, holder(before), model, resource))
			})
	})
}

// withRate adds a rate at some place that is already there, or over everything.
func (w world) withRate(k v1alpha1.KeyLimits, r v1alpha1.Rate) v1alpha1.KeyLimits {
	k = *k.DeepCopy()
	if k.Limits == nil {
		k.Limits = &v1alpha1.Limits{}
	}
	place := pick(w, places(&k), "place")
	place.Rates = append(place.Rates, r)
	return k
}

// places lists all Limits of one holder.
func places(k *v1alpha1.KeyLimits) []*v1alpha1.Limits {
	var all []*v1alpha1.Limits
	if k.Limits != nil {
		all = append(all, k.Limits)
	}
	for i := range k.Resources {
		all = append(all, &k.Resources[i].Limits)
	}
	for i := range k.Classes {
		all = append(all, &k.Classes[i].Limits)
	}
	for i := range k.Models {
		all = append(all, &k.Models[i].Limits)
	}
	return all
}
