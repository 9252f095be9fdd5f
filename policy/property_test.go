package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

var stranger = netip.MustParseAddr("203.0.113.9")

// TestResolveAgreesWithANaiveReading compares Resolve with the naive model: the same ceilings, and counters that are the
// same for two requests exactly where the model's are.
func TestResolveAgreesWithANaiveReading(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		n := naive{own: w.keyLimits(), tier: w.tier("t0").Spec.KeyLimits, groups: w.groups(true)}
		in := single(n.own, v1alpha1.RateLimitTierSpec{KeyLimits: n.tier, KeyOverrides: v1alpha1.KeyOverridesAny}, n.groups)
		g := w.selecting(&in)
		n.groups = matching(n.groups, g)
		if w.chance(2, "user") {
			n.user = new(w.keyLimits())
			in.Users = []*v1alpha1.UserQuota{{ObjectMeta: w.meta("team-a", "ann"), Spec: v1alpha1.UserQuotaSpec{User: "ann", KeyLimits: *n.user}}}
		}
		table, verdicts := policy.Compile(in)
		if v := verdictOn(verdicts, policy.KindQuota, "app"); !v.Accepted() {
			t.Fatalf("the quota is not accepted: %v", v)
		}
		gateway := table.Gateways()[0]
		forth, back := map[string]string{}, map[string]string{}
		for _, model := range asked {
			for _, resource := range askedResources {
				want, got := n.limits(model, resource), ceilings(table.Resolve(gateway, holder(table), model, resource))
				compareCeilings(t, fmt.Sprintf("model %q, resource %q", model, resource), want, got, forth, back)
			}
		}
	})
}

// compareCeilings holds two lists against each other; forth and back relate the names that the two give to counters.
func compareCeilings(t *rapid.T, what string, want, got []ceiling, forth, back map[string]string) {
	byPair := func(a, b ceiling) int {
		return slices.Compare([]string{a.scope, a.pair, a.algorithm, fmt.Sprint(a.max)}, []string{b.scope, b.pair, b.algorithm, fmt.Sprint(b.max)})
	}
	slices.SortFunc(want, byPair)
	slices.SortFunc(got, byPair)
	if len(want) != len(got) {
		t.Fatalf("%s: want %v, got %v", what, want, got)
	}
	for i := range want {
		if byPair(want[i], got[i]) != 0 {
			t.Fatalf("%s: want %v, got %v", what, want, got)
		}
		if want[i].scope == "ModelShared" {
			continue // A group and its parent can have equal limits, which then stand in any order.
		}
		x, y := want[i].counter, got[i].counter
		if forth[x] == "" && back[y] == "" {
			forth[x], back[y] = y, x
		}
		if forth[x] != y || back[y] != x {
			t.Fatalf("%s: counter %q should be %q (also called %q)", what, y, forth[x], back[y])
		}
	}
}

// single is an Input with one quota, team-a/app of user ann, on one tier.
func single(own v1alpha1.KeyLimits, tier v1alpha1.RateLimitTierSpec, groups []*v1alpha1.ModelLimit) policy.Input {
	in := policy.Input{Models: groups}
	in.Tiers = []*v1alpha1.RateLimitTier{{Spec: tier}}
	in.Tiers[0].Name = "t0"
	q := v1alpha1.ApiKeyQuota{}
	q.Namespace, q.Name = "team-a", "app"
	q.Spec.KeyLimits, q.Spec.User, q.Spec.TierRef.Name = own, "ann", "t0"
	q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: digest(0)}}
	in.Quotas = []*v1alpha1.ApiKeyQuota{&q}
	return in
}

// selecting adds a gateway for the quota of single, with a selector that is returned.
func (w world) selecting(in *policy.Input) *metav1.LabelSelector {
	g := v1alpha1.QuotaGateway{ObjectMeta: w.meta("team-a", "g0")}
	g.Spec.ModelLimitSelector = pick(w, chosen, "modelLimitSelector")
	in.Gateways = []*v1alpha1.QuotaGateway{&g}
	return g.Spec.ModelLimitSelector
}

// holder is who holds the keys of the quota of single, or nil.
func holder(table *policy.Table) *policy.Holder {
	c, _ := table.Quota(policy.Name{Namespace: "team-a", Name: "app"})
	return c.Holder
}

// TestCompilingAgainChangesNothing compiles an Input, and then once more with what the first time accepted.
func TestCompilingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		earlier, _ := policy.Compile(w.input())
		in := w.input()
		in.LastAccepted = earlier.Accepted()
		first, verdicts := policy.Compile(in)
		before := fmt.Sprintf("%+v", in)
		in.LastAccepted = first.Accepted()
		again, verdictsAgain := policy.Compile(in)
		if diff := cmp.Diff(verdicts, verdictsAgain); diff != "" {
			t.Fatalf("verdicts (-first +again):\n%s", diff)
		}
		if first.Version() != again.Version() {
			t.Fatalf("versions differ: %s", before)
		}
		if diff := cmp.Diff(first.Accepted(), again.Accepted()); diff != "" {
			t.Fatalf("accepted (-first +again):\n%s", diff)
		}
	})
}

// TestCompileLeavesItsInputAlone compares an Input with a copy made before.
func TestCompileLeavesItsInputAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := small(t).input()
		kept := policy.Input{Namespaces: slices.Clone(in.Namespaces)}
		kept.Tiers = copies(in.Tiers)
		kept.Models = copies(in.Models)
		kept.Quotas = copies(in.Quotas)
		kept.Users = copies(in.Users)
		kept.Gateways = copies(in.Gateways)
		policy.Compile(in)
		if diff := cmp.Diff(kept, in); diff != "" {
			t.Fatalf("input (-before +after):\n%s", diff)
		}
	})
}

// copies share nothing with the objects.
func copies[T interface{ DeepCopy() T }](objects []T) []T {
	var all []T
	for _, o := range objects {
		all = append(all, o.DeepCopy())
	}
	return all
}

// TestARejectedObjectCostsOnlyItself removes each object that is not accepted in turn. Left out are those that count all
// the same: quotas, which keep their keys, gateways that go on as before, ModelLimits without their parent, and ModelLimits
// that count at some gateway and not at another.
func TestARejectedObjectCostsOnlyItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := small(t).input()
		table, verdicts := policy.Compile(in)
		for _, v := range verdicts {
			if v.Accepted() || v.Object.Kind == policy.KindQuota || v.Problems[0].Reason == v1alpha1.ReasonParentNotFound {
				continue
			}
			// Each ModelLimit names a model that no other names.
			if own := "only-" + v.Object.Name.Name; v.Object.Kind == policy.KindModel && table.Canonical(own) == own {
				continue
			}
			smaller, rest := policy.Compile(without(in, v.Object))
			want := slices.DeleteFunc(slices.Clone(verdicts), func(o policy.Verdict) bool { return o.Object == v.Object })
			if diff := cmp.Diff(want, rest, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("verdicts without %s (-want +got):\n%s", v.Object, diff)
			}
			if table.Version() != smaller.Version() {
				t.Fatalf("without %s the version differs", v.Object)
			}
		}
	})
}

func without(in policy.Input, o policy.Object) policy.Input {
	is := func(kind, namespace, name string) bool {
		return o == policy.Object{Kind: kind, Name: policy.Name{Namespace: namespace, Name: name}}
	}
	in.Tiers = slices.DeleteFunc(slices.Clone(in.Tiers), func(x *v1alpha1.RateLimitTier) bool { return is(policy.KindTier, "", x.Name) })
	in.Models = slices.DeleteFunc(slices.Clone(in.Models), func(x *v1alpha1.ModelLimit) bool { return is(policy.KindModel, "", x.Name) })
	in.Users = slices.DeleteFunc(slices.Clone(in.Users), func(x *v1alpha1.UserQuota) bool { return is(policy.KindUser, x.Namespace, x.Name) })
	in.Gateways = slices.DeleteFunc(slices.Clone(in.Gateways), func(x *v1alpha1.QuotaGateway) bool { return is(policy.KindGateway, x.Namespace, x.Name) })
	return in
}

// TestResolutionsAreSound checks what has to hold of every Resolution: no counter twice, and equal answers for models of one
// canonical name.
func TestResolutionsAreSound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		earlier, _ := policy.Compile(w.input())
		in := w.input()
		in.LastAccepted = earlier.Accepted()
		table, _ := policy.Compile(in)
		for _, h := range everyone(table, in) {
			for _, g := range everywhere(table) {
				checkSound(t, table, g, h)
			}
		}
	})
}

func checkSound(t *rapid.T, table *policy.Table, g *policy.Gateway, h *policy.Holder) {
	canonical := map[string]policy.Resolution{}
	for _, model := range asked {
		r := table.Resolve(g, h, model, "chat")
		counters := map[string]bool{}
		for _, l := range r.Limits {
			if counters[l.Counter] {
				t.Fatalf("%s, model %q: counter %s twice", h.Name, model, l.Counter)
			}
			counters[l.Counter] = true
		}
		name := table.Canonical(model)
		if known, found := canonical[name]; found {
			if diff := cmp.Diff(known, r); diff != "" {
				t.Fatalf("%s: models called %q differ at %q:\n%s", h.Name, name, model, diff)
			}
		}
		canonical[name] = r
	}
}

// TestAGatewayWithoutASelectorCountsAllModelLimits compares what holds there with what holds where no gateway is named.
func TestAGatewayWithoutASelectorCountsAllModelLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := small(t).input()
		for i := range in.Gateways {
			in.Gateways[i].Spec.Enforcement = ""
			if in.Gateways[i].Spec.ModelLimitSelector != nil {
				in.Gateways[i].Spec.ModelLimitSelector = &metav1.LabelSelector{}
			}
		}
		table, _ := policy.Compile(in)
		for _, g := range table.Gateways() {
			for _, h := range everyone(table, in) {
				for _, model := range asked {
					if diff := cmp.Diff(table.Resolve(nil, h, model, "chat"), table.Resolve(g, h, model, "chat")); diff != "" {
						t.Fatalf("%s, model %q (-everywhere +at %s):\n%s", h.Name, model, g.Name, diff)
					}
				}
			}
		}
	})
}

// TestNoRequestMeetsMoreLimitsThanALeaseCarries counts the limits of every request of an accepted quota and of strangers,
// and looks for a request that meets too many where a quota was refused for that.
func TestNoRequestMeetsMoreLimitsThanALeaseCarries(t *testing.T) {
	t.Parallel()
	var refused int
	rapid.Check(t, func(t *rapid.T) {
		w := dense(t)
		n := naive{own: w.keyLimits(), tier: w.keyLimits(), user: new(w.keyLimits()), groups: w.groups(true)}
		in := single(n.own, v1alpha1.RateLimitTierSpec{KeyLimits: n.tier, KeyOverrides: v1alpha1.KeyOverridesAny}, n.groups)
		in.Users = []*v1alpha1.UserQuota{{ObjectMeta: w.meta("team-a", "ann"), Spec: v1alpha1.UserQuotaSpec{User: "ann", KeyLimits: *n.user}}}
		in.Gateways = []*v1alpha1.QuotaGateway{new(w.gateway("g0"))}
		in.Gateways[0].Spec.Routes = nil
		in.Gateways[0].Spec.Identity.MissingKey = &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &v1alpha1.Ref{Name: "t0"}}
		in.Gateways[0].Spec.AllowedKeys, in.Gateways[0].Namespace = nil, "team-a"
		selector := pick(w, chosen, "modelLimitSelector")
		in.Gateways[0].Spec.ModelLimitSelector = selector
		table, verdicts := policy.Compile(in)
		for _, h := range everyone(table, in) {
			for _, g := range judges(table, "team-a") {
				for _, model := range asked {
					for _, resource := range askedResources {
						if got := len(table.Resolve(g, h, model, resource).Limits); got > policy.MaxLimits {
							t.Fatalf("%s meets %d limits with model %q and resource %q", h.Name, got, model, resource)
						}
					}
				}
			}
		}
		byGateway := naive{tier: n.tier, groups: matching(n.groups, selector)}
		if len(table.Gateways()) > 0 { // It judges the quota, too.
			n.groups = byGateway.groups
		}
		for kind, most := range map[string]int{policy.KindQuota: n.most(), policy.KindGateway: byGateway.most()} {
			name := map[string]string{policy.KindQuota: "app", policy.KindGateway: "g0"}[kind]
			v := verdictOn(verdicts, kind, name)
			if (most > policy.MaxLimits) == v.Accepted() {
				t.Fatalf("at most %d limits, but the verdict is %+v", most, v)
			}
			if !v.Accepted() {
				refused++
			}
		}
	})
	if refused == 0 {
		t.Error("nothing was refused, so half of this was not tested")
	}
}

// most is the largest number of limits that any request meets.
func (n naive) most() int {
	most := 0
	for _, model := range asked {
		for _, resource := range askedResources {
			most = max(most, len(n.limits(model, resource)))
		}
	}
	return most
}

// TestEqualVersionsMeanEqualAnswers compiles two Inputs that differ in one kind of object, and asks both Tables everything.
func TestEqualVersionsMeanEqualAnswers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := small(t)
		in := w.input()
		x, _ := policy.Compile(in)
		other := w.input()
		switch pick(w, []string{"tiers", "models", "users", "namespaces"}, "change") {
		case "tiers":
			in.Tiers = other.Tiers
		case "models":
			in.Models = other.Models
		case "users":
			in.Users = other.Users
		case "namespaces":
			in.Namespaces = nil
		}
		y, _ := policy.Compile(in)
		same := cmp.Diff(answers(x, in), answers(y, in)) == ""
		if x.Version() == y.Version() && !same {
			t.Fatalf("the versions are equal, the answers are not:\n%s", cmp.Diff(answers(x, in), answers(y, in)))
		}
	})
}

// answers is everything that a Table can be asked about the objects of in.
func answers(table *policy.Table, in policy.Input) map[string]any {
	out := map[string]any{}
	for _, h := range everyone(table, in) {
		out[h.Name+" on "+h.Tier] = h.Priority
		for i, g := range everywhere(table) {
			for _, model := range asked {
				for _, resource := range askedResources {
					out[fmt.Sprintf("%s %q %q at %d", h.Name, model, resource, i)] = table.Resolve(g, h, model, resource)
				}
			}
		}
	}
	for _, g := range in.Gateways {
		gateway, found := table.Gateway(g.Namespace + "/" + g.Name)
		for _, q := range in.Quotas {
			out[g.Name+" admits "+q.Namespace] = found && gateway.Admits(q.Namespace)
		}
		for _, model := range asked {
			out[g.Name+" serves "+model] = found && gateway.Serves(model)
		}
	}
	for i := range 8 {
		d, _ := policy.ParseDigest(digest(i))
		if c, found := table.Lookup(d); found {
			out[digest(i)] = c.Quota
		}
	}
	return out
}
