package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// served is what a Table says, without what only Envoys have to know.
func served(t testing.TB, table *policy.Table) any {
	t.Helper()
	all := content(t, table).(map[string]any)
	for _, g := range all["gateways"].([]any) {
		for _, field := range []string{"Listeners", "Backends", "Routes", "TrustedProxyHops", "MaxBodyBytes", "AllowUncounted"} {
			delete(g.(map[string]any), field)
		}
	}
	return all
}

// follow changes the Assembly from one Table to the next, in any order, and returns its Table.
func follow(t testing.TB, a *policy.Assembly, from, to *policy.Table) *policy.Table {
	t.Helper()
	set, gone := to.Changes(from)
	for _, name := range gone {
		a.Delete(name)
	}
	for _, p := range set {
		a.Set(p)
	}
	table, missing := a.Table(to.Version())
	if len(missing) > 0 {
		t.Fatalf("missing: %v", missing)
	}
	return table
}

// followAnyhow does what follow does in any order, and makes Tables on the way.
func followAnyhow(r *rapid.T, a *policy.Assembly, from, to *policy.Table) {
	var steps []func()
	set, gone := to.Changes(from)
	byName := func(x, y policy.PartName) int {
		return strings.Compare(x.String()+" "+x.Form, y.String()+" "+y.Form)
	}
	slices.SortFunc(gone, byName) // so that a seed repeats a run
	slices.SortFunc(set, func(x, y policy.Part) int { return byName(x.PartName(), y.PartName()) })
	for _, name := range gone {
		steps = append(steps, func() { a.Delete(name) })
	}
	for _, p := range set {
		steps = append(steps, func() { a.Set(p) })
	}
	if len(steps) == 0 {
		return
	}
	for _, step := range rapid.Permutation(steps).Draw(r, "steps") {
		step()
		if rapid.Bool().Draw(r, "meanwhile") {
			a.Table("meanwhile")
		}
	}
}

// TestAnAssembledTableAnswersAsTheCompiledOneDoes compiles several Inputs, and follows from one to the next.
func TestAnAssembledTableAnswersAsTheCompiledOneDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		w, a := small(r), policy.NewAssembly()
		var last *policy.Table
		for range 1 + w.number(3, "tables") {
			in := w.input()
			if last != nil && w.chance(2, "as before") {
				in.LastAccepted = last.Accepted()
			}
			for i := range in.Quotas {
				if w.chance(3, "expires") {
					in.Quotas[i].Spec.ExpirationTime = &metav1.Time{Time: time.Unix(int64(w.number(2, "expiration")), 0)}
				}
			}
			next, _ := policy.Compile(in)
			if w.chance(2, "anyhow") {
				followAnyhow(r, a, last, next)
				last = next
			}
			compareTables(r, t, next, follow(t, a, last, next), in)
			last = next
		}
	})
}

func compareTables(r *rapid.T, t *testing.T, want, got *policy.Table, in policy.Input) {
	t.Helper()
	if diff := cmp.Diff(served(t, want), served(t, got)); diff != "" {
		r.Fatalf("content (-compiled +assembled):\n%s", diff)
	}
	if diff := cmp.Diff(answers(want, in), answers(got, in)); diff != "" {
		r.Fatalf("answers (-compiled +assembled):\n%s", diff)
	}
	if diff := cmp.Diff(want.Capacities(), got.Capacities()); diff != "" {
		r.Fatalf("capacities (-compiled +assembled):\n%s", diff)
	}
	for _, model := range asked {
		if x, y := want.Canonical(model), got.Canonical(model); x != y {
			r.Fatalf("model %q is %q when compiled and %q when assembled", model, x, y)
		}
	}
	for _, q := range in.Quotas {
		x, _ := want.Quota(policy.Name{Namespace: q.Namespace, Name: q.Name})
		y, _ := got.Quota(policy.Name{Namespace: q.Namespace, Name: q.Name})
		for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1, 0), time.Unix(9, 0)} {
			if x.Standing(at) != y.Standing(at) {
				r.Fatalf("%s is %s when compiled and %s when assembled", x.Quota, x.Standing(at), y.Standing(at))
			}
		}
	}
}

// TestEveryChangeThatMakesANewVersionIsAChangeOfParts makes the changes of TestEveryChangeIsANewVersion, each there and back.
func TestEveryChangeThatMakesANewVersionIsAChangeOfParts(t *testing.T) {
	t.Parallel()
	from, _ := policy.Compile(versioned())
	for name, change := range changes() {
		in := versioned()
		change(&in)
		to, _ := policy.Compile(in)
		a := policy.NewAssembly()
		follow(t, a, nil, from)
		for _, step := range [][2]*policy.Table{{from, to}, {to, from}} {
			if diff := cmp.Diff(served(t, step[1]), served(t, follow(t, a, step[0], step[1]))); diff != "" {
				t.Errorf("%s (-compiled +assembled):\n%s", name, diff)
			}
		}
	}
}

// TestAChangeIsAsSmallAsItsCause counts the parts that one change of an object makes.
func TestAChangeIsAsSmallAsItsCause(t *testing.T) {
	t.Parallel()
	in := customers(provider(), 100)
	before, _ := policy.Compile(in)
	in.Tiers = copies(in.Tiers)
	in.Tiers[3].Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 7)
	in.Quotas[5].Spec.DesiredState = v1alpha1.DesiredStateSuspended
	after, _ := policy.Compile(in)
	set, gone := after.Changes(before)
	var got []string
	for _, p := range set {
		got = append(got, p.PartName().String())
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"ApiKeyQuota team-5/key-5", "RateLimitTier tier-3"}, got); diff != "" || len(gone) > 0 {
		t.Errorf("changes (-want +got), and %v gone:\n%s", gone, diff)
	}
}

// TestWhatAnAssemblyDoesNotChangeIsShared looks at the holders and gateways of two Tables.
func TestWhatAnAssemblyDoesNotChangeIsShared(t *testing.T) {
	t.Parallel()
	in := customers(provider(), 100)
	in.Gateways = versioned().Gateways
	in.Gateways[0].Spec.Identity = v1alpha1.Identity{}
	before, _ := policy.Compile(in)
	a := policy.NewAssembly()
	x := follow(t, a, nil, before)
	in.Quotas[5].Spec.DesiredState = v1alpha1.DesiredStateSuspended
	after, _ := policy.Compile(in)
	y := follow(t, a, before, after)
	var changed []string
	for _, name := range x.Quotas() {
		p, _ := x.Quota(name)
		q, _ := y.Quota(name)
		if p != q {
			changed = append(changed, name.String())
		}
	}
	if diff := cmp.Diff([]string{"team-5/key-5"}, changed); diff != "" {
		t.Errorf("quotas that are not shared (-want +got):\n%s", diff)
	}
	if g, h := x.Gateways()[0], y.Gateways()[0]; g != h {
		t.Error("the gateway is not shared")
	}
	if c, _ := x.Quota(policy.Name{Namespace: "team-5", Name: "key-5"}); c.Standing(time.Time{}) != policy.Active {
		t.Error("the earlier table has changed")
	}
}

// TestWhatRefersToNothingGoesOnAsItWas deletes a tier under its quotas.
func TestWhatRefersToNothingGoesOnAsItWas(t *testing.T) {
	t.Parallel()
	table, _ := policy.Compile(versioned())
	set, _ := table.Changes(nil)
	tier := policy.PartName{Object: policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: "t0"}}}
	app, found := policy.Name{Namespace: "team-a", Name: "app"}, false
	key, _ := policy.ParseDigest(digest(0))
	words := "it refers to RateLimitTier t0, which is not there"

	never, then := policy.NewAssembly(), policy.NewAssembly()
	for _, p := range set {
		then.Set(p)
		if p.PartName() != tier {
			never.Set(p)
		} else {
			found = true
		}
	}
	if !found {
		t.Fatalf("there is no part %s", tier)
	}
	then.Table("1")
	then.Delete(tier)
	for name, tc := range map[string]struct {
		of   *policy.Assembly
		want policy.Standing
	}{
		"a tier that never was":   {never, policy.Pending},
		"a tier that was deleted": {then, policy.Active},
	} {
		got, missing := tc.of.Table("2")
		if diff := cmp.Diff([]string{words}, slices.Collect(maps.Values(missing))); diff != "" {
			t.Errorf("%s: missing (-want +got):\n%s", name, diff)
		}
		c, known := got.Lookup(key)
		if !known || c.Quota != app || c.Standing(time.Time{}) != tc.want {
			t.Errorf("%s: the key is %+v, want %s", name, c, tc.want)
		}
		if _, there := got.Gateway("edge/main"); !there {
			t.Errorf("%s: the gateway is gone, too", name)
		}
	}
	for _, p := range set {
		if p.PartName() == tier {
			never.Set(p)
		}
	}
	whole, missing := never.Table("3")
	if diff := cmp.Diff(served(t, table), served(t, whole)); diff != "" || len(missing) > 0 {
		t.Errorf("with its tier (-want +got), and %v is missing:\n%s", missing, diff)
	}
}

// TestAKeyThatMovesIsNeverUnknown gives a key of one quota to another, whichever of the two is told first.
func TestAKeyThatMovesIsNeverUnknown(t *testing.T) {
	t.Parallel()
	key := policy.HashKey([]byte("sk-1"))
	with := func(name string, keys ...policy.Digest) *policy.QuotaPart {
		return &policy.QuotaPart{Name: policy.Name{Namespace: "team-a", Name: name}, Digests: keys}
	}
	for name, order := range map[string][]*policy.QuotaPart{
		"the former first":  {with("a"), with("b", key)},
		"the new one first": {with("b", key), with("a")},
	} {
		a := policy.NewAssembly()
		a.Set(with("a", key))
		a.Table("")
		for _, p := range order {
			a.Set(p)
		}
		table, _ := a.Table("")
		if c, known := table.Lookup(key); !known || c.Quota.Name != "b" {
			t.Errorf("%s: the key is %+v", name, c)
		}
	}
}

// TestAlertsOfItsOwnStay sets a quota first, whose own alerts are those of its tier as it was, and then the tier.
func TestAlertsOfItsOwnStay(t *testing.T) {
	t.Parallel()
	app, plan := policy.Name{Namespace: "team-a", Name: "app"}, policy.TierRef{Name: "free"}
	a := policy.NewAssembly()
	a.Set(&policy.TierPart{TierRef: plan, Priority: 2, Alerts: []int{50}})
	a.Set(&policy.QuotaPart{Name: app, Holder: &policy.HolderPart{Tier: plan, Alerts: []int{50}}})
	a.Set(&policy.TierPart{TierRef: plan, Priority: 2, Alerts: []int{80, 100}})
	table, _ := a.Table("")
	c, _ := table.Quota(app)
	if diff := cmp.Diff([]int{50}, c.Holder.Alerts); diff != "" {
		t.Errorf("alerts (-want +got):\n%s", diff)
	}
}

func BenchmarkChangeOfOneQuota(b *testing.B) {
	n := 100_000
	if testing.Short() {
		n = 1000
	}
	in := customers(provider(), n)
	last, _ := policy.Compile(in)
	a := policy.NewAssembly()
	follow(b, a, nil, last)
	var tables [2]*policy.Table
	for i, state := range []v1alpha1.DesiredState{v1alpha1.DesiredStateSuspended, v1alpha1.DesiredStateActive} {
		in.Quotas[5].Spec.DesiredState = state
		tables[i], _ = policy.Compile(in)
	}
	b.Run("compare", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			tables[i%2].Changes(tables[(i+1)%2])
		}
	})
	b.Run("assemble", func(b *testing.B) {
		set, _ := tables[0].Changes(tables[1])
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			a.Set(set[0])
			a.Table(fmt.Sprint(i))
		}
	})
	b.Run("look up", func(b *testing.B) {
		table, _ := a.Table("")
		key := policy.HashKey(fmt.Append(nil, 1))
		b.ReportAllocs()
		for b.Loop() {
			table.Lookup(key)
		}
	})
	b.Run("find", func(b *testing.B) {
		table, _ := a.Table("")
		b.ReportAllocs()
		for b.Loop() {
			table.Quota(policy.Name{Namespace: "team-1", Name: "key-1"})
		}
	})
}
