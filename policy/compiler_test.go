package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A cluster is an Input that changes as one in an API server does: whatever is written becomes another state of an object, with
// another generation, or another object of the name.
type cluster struct {
	world
	in      policy.Input
	objects int // that there ever were
}

var secretNames = []string{"s0", "s1"}

func newCluster(t *rapid.T) *cluster {
	c := &cluster{world: small(t)}
	c.in = c.input()
	for i := range c.in.Tiers {
		c.create(&c.in.Tiers[i].ObjectMeta)
	}
	for i := range c.in.Models {
		c.create(&c.in.Models[i].ObjectMeta)
	}
	for i := range c.in.Quotas {
		c.create(&c.in.Quotas[i].ObjectMeta)
		c.spoil(c.in.Quotas[i])
	}
	for i := range c.in.Users {
		c.create(&c.in.Users[i].ObjectMeta)
	}
	for i := range c.in.Gateways {
		c.create(&c.in.Gateways[i].ObjectMeta)
	}
	c.in.Secrets = map[policy.Name]policy.Secret{}
	for range c.number(3, "secrets") {
		c.changeSecret()
	}
	return c
}

// create gives an object an identity; some come from files, and have none.
func (c *cluster) create(m *metav1.ObjectMeta) {
	c.objects++
	if !c.chance(8, "of a file") {
		m.UID, m.Generation = types.UID(fmt.Sprint(c.objects)), 1
	}
}

// spoil has some keys of a quota come from Secrets, and some quotas expire.
func (c *cluster) spoil(q *v1alpha1.ApiKeyQuota) {
	for i := range q.Spec.Keys {
		if c.chance(3, "in a secret") {
			q.Spec.Keys[i].Digest = ""
			q.Spec.Keys[i].SecretKeyRef = &v1alpha1.SecretKeyRef{Name: pick(c.world, secretNames, "secret"), Key: "key"}
		}
	}
	if c.chance(3, "expires") {
		q.Spec.ExpirationTime = &metav1.Time{Time: time.Unix(int64(c.number(2, "expiration")), 0)}
	}
}

// change makes one change of one kind of object, or of none.
func (c *cluster) change() {
	other := c.input()
	switch c.number(9, "kind") {
	case 0:
		changeOne(c, &c.in.Tiers, other.Tiers)
	case 1:
		changeOne(c, &c.in.Models, other.Models)
	case 2:
		changeOne(c, &c.in.Users, other.Users)
	case 3:
		changeOne(c, &c.in.Gateways, other.Gateways)
	case 4:
		c.in.Namespaces = []policy.Namespace{{Name: pick(c.world, namespaces, "namespace"), Labels: map[string]string{"paid": pick(c.world, []string{"yes", "no"}, "paid")}}}
	case 5:
		c.changeSecret()
	case 6:
		for i := range c.in.Models {
			c.in.Models[i].Labels = pick(c.world, labelled, "labels")
		}
	case 7:
		c.writeStatus()
	default:
		for i := range other.Quotas {
			c.spoil(other.Quotas[i])
		}
		changeOne(c, &c.in.Quotas, other.Quotas)
	}
}

func (c *cluster) changeSecret() {
	name := policy.Name{Namespace: pick(c.world, namespaces, "namespace"), Name: pick(c.world, secretNames, "secret")}
	secret := policy.Secret{Labelled: !c.chance(6, "unlabelled"), Keys: map[string]policy.Key{"key": policy.ReadKey(fmt.Append(nil, c.number(7, "digest")))}}
	c.in.Secrets = maps.Clone(c.in.Secrets)
	c.in.Secrets[name] = secret
	if c.chance(4, "deleted") {
		delete(c.in.Secrets, name)
	}
}

// writeStatus is what does not change a generation.
func (c *cluster) writeStatus() {
	for i := range c.in.Quotas {
		c.in.Quotas[i].ResourceVersion = fmt.Sprint(c.number(99, "version"))
		c.in.Quotas[i].Status.ObservedGeneration++
	}
}

// changeOne takes one object out of a list, or puts one of the others in, in place of the one of its name if there is one.
func changeOne[T metav1.ObjectMetaAccessor](c *cluster, list *[]T, others []T) {
	if len(others) == 0 || c.chance(4, "delete") {
		if n := len(*list); n > 0 {
			i := c.number(n-1, "deleted")
			*list = slices.Delete(*list, i, i+1)
		}
		return
	}
	meta := func(o T) *metav1.ObjectMeta { return o.GetObjectMeta().(*metav1.ObjectMeta) }
	fresh := others[c.number(len(others)-1, "fresh")]
	m := meta(fresh)
	for i := range *list {
		was := meta((*list)[i])
		if was.Namespace != m.Namespace || was.Name != m.Name {
			continue
		}
		if c.chance(5, "another object") {
			c.create(m)
		} else {
			m.UID, m.CreationTimestamp, m.Generation = was.UID, was.CreationTimestamp, was.Generation+1
		}
		(*list)[i] = fresh
		return
	}
	c.create(m)
	*list = append(*list, fresh)
}

// view is the Input as it is now, with objects of its own and in any order.
func (c *cluster) view() policy.Input {
	in := c.in
	in.Tiers, in.Models, in.Quotas = copies(in.Tiers), copies(in.Models), copies(in.Quotas)
	in.Users, in.Gateways, in.Namespaces = copies(in.Users), copies(in.Gateways), slices.Clone(in.Namespaces)
	slices.Reverse(in.Quotas)
	return in
}

// wipe makes sure that whoever kept something of the lists is found out.
func wipe(in *policy.Input) {
	empty(in.Tiers)
	empty(in.Models)
	empty(in.Quotas)
	empty(in.Users)
	empty(in.Gateways)
	clear(in.Namespaces)
}

func empty[T any](objects []*T) {
	for _, o := range objects {
		*o = *new(T)
	}
	clear(objects)
}

// over puts what LastAccepted says over what a Table accepted.
func over(last, says policy.Accepted) policy.Accepted {
	maps.Copy(last.Quotas, says.Quotas)
	maps.Copy(last.Gateways, says.Gateways)
	maps.Copy(last.Tiers, says.Tiers)
	return last
}

// TestACompilerRemembersWithoutATrace has a Compiler and Compile make the same Inputs, one change after the other.
func TestACompilerRemembersWithoutATrace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		c, a := newCluster(r), policy.NewAssembly()
		var (
			compiler policy.Compiler
			earlier  []policy.Accepted
			last     *policy.Table
			memory   = policy.Accepted{Quotas: map[string]policy.AcceptedQuota{}, Gateways: map[string]policy.AcceptedGateway{}, Tiers: map[string]policy.AcceptedTier{}}
		)
		for step := range 1 + c.number(8, "changes") {
			for range step {
				c.change()
				if c.chance(2, "alone") {
					break
				}
			}
			in := c.view()
			if len(earlier) > 0 && c.chance(4, "last accepted") {
				in.LastAccepted = pick(c.world, earlier, "earlier")
			}
			fresh := in
			fresh.LastAccepted = over(memory, in.LastAccepted)
			want, wantVerdicts := policy.Compile(fresh)
			got, verdicts := compiler.Compile(in)
			if diff := cmp.Diff(wantVerdicts, verdicts); diff != "" {
				r.Fatalf("verdicts (-compiled anew +remembered):\n%s", diff)
			}
			if diff := cmp.Diff(content(t, want), content(t, got)); diff != "" {
				r.Fatalf("content (-compiled anew +remembered):\n%s", diff)
			}
			if want.Version() != got.Version() {
				r.Fatal("the versions differ")
			}
			if diff := cmp.Diff(want.Accepted(), got.Accepted()); diff != "" {
				r.Fatalf("accepted (-compiled anew +remembered):\n%s", diff)
			}
			compareRenewed(r, got, last)
			compareTables(r, t, want, follow(t, a, last, got), c.in)
			compareTables(r, t, want, got, c.in)
			wipe(&in)
			last, memory = got, got.Accepted()
			earlier = append(earlier, got.Accepted())
		}
	})
}

// compareRenewed holds what Renewed says against all that can be asked of each quota.
func compareRenewed(r *rapid.T, got, last *policy.Table) {
	if last == nil {
		return
	}
	renewed := slices.Collect(got.Renewed(last))
	for _, name := range got.Quotas() {
		now, _ := got.Quota(name)
		was, _ := last.Quota(name)
		if now == was == slices.Contains(renewed, name) {
			r.Fatalf("renewed are %v, and %s is another: %t", renewed, name, now != was)
		}
	}
}

// TestACompilerMakesAnewWhatHasChanged looks at the credentials of two Tables.
func TestACompilerMakesAnewWhatHasChanged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(in *policy.Input)
		want   []string
	}{
		"nothing": {func(*policy.Input) {}, nil},
		"a quota": {func(in *policy.Input) {
			in.Quotas[5].Spec.DesiredState, in.Quotas[5].Generation = v1alpha1.DesiredStateSuspended, 2
		}, []string{"team-5/key-5"}},
		"a status": {func(in *policy.Input) { in.Quotas[5].ResourceVersion = "7" }, nil},
		"a secret": {func(in *policy.Input) {
			in.Secrets[policy.Name{Namespace: "team-4", Name: "key-4"}] = policy.Secret{Labelled: true, Keys: map[string]policy.Key{"key": policy.ReadKey([]byte("another"))}}
		}, []string{"team-4/key-4"}},
		"a tier": {func(in *policy.Input) {
			in.Tiers[7].Spec.Limits, in.Tiers[7].Generation = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 7), 2
		}, []string{"team-7/key-7"}},
		"a model": {func(in *policy.Input) {
			in.Models[0].Spec.Resource, in.Models[0].Generation = "images", 2
		}, nil},
		"a user": {func(in *policy.Input) {
			in.Users[0].Spec.Limits, in.Users[0].Generation = limit(v1alpha1.MetricRequests, v1alpha1.PerDay, 7), 2
		}, []string{"team-6/key-6"}},
		"a quota that is refused": {func(in *policy.Input) {
			in.Quotas[5].Spec.TierRef.Name, in.Quotas[5].Generation = "gone", 2
		}, []string{"team-5/key-5"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := customers(provider(), 8)
			in.Quotas[6].Spec.User = "ann"
			for _, name := range []string{"ann", "bob"} {
				in.Users = append(in.Users, &v1alpha1.UserQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team-6", Name: name}, Spec: v1alpha1.UserQuotaSpec{User: name}})
			}
			in = identified(in)
			var compiler policy.Compiler
			before, _ := compiler.Compile(in)
			tc.change(&in)
			after, _ := compiler.Compile(in)
			var got []string
			for name := range after.Renewed(before) {
				got = append(got, name.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("made anew (-want +got):\n%s", diff)
			}
		})
	}
}

// TestACompilerHandsOnGatewaysThatHaveNotChanged looks at the gateways of two Tables: who tells Envoys of them goes by the pointers.
func TestACompilerHandsOnGatewaysThatHaveNotChanged(t *testing.T) {
	t.Parallel()
	secret := policy.Name{Namespace: "edge", Name: "provider"}
	holding := func(key string) policy.Secret {
		return policy.Secret{Labelled: true, Keys: map[string]policy.Key{"key": policy.ReadKey([]byte(key))}}
	}
	for name, tc := range map[string]struct {
		change func(in *policy.Input)
		want   []string
	}{
		"nothing":  {func(*policy.Input) {}, nil},
		"a status": {func(in *policy.Input) { in.Gateways[0].ResourceVersion = "7" }, nil},
		"a quota": {func(in *policy.Input) {
			in.Quotas[5].Spec.DesiredState, in.Quotas[5].Generation = v1alpha1.DesiredStateSuspended, 2
		}, nil},
		"a gateway": {func(in *policy.Input) {
			in.Gateways[0].Spec.Requests, in.Gateways[0].Generation = &v1alpha1.Requests{MaxBodyBytes: 2048}, 2
		}, []string{"plain"}},
		"another of its name": {func(in *policy.Input) { in.Gateways[0].UID = "another" }, []string{"plain"}},
		"a tier": {func(in *policy.Input) {
			in.Tiers[7].Spec.Limits, in.Tiers[7].Generation = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 7), 2
		}, []string{"assigns"}},
		"whom a tier serves": {func(in *policy.Input) {
			in.Tiers[7].Spec.AllowedNamespaces, in.Tiers[7].Generation = &v1alpha1.TierNamespaces{From: v1alpha1.TierNamespacesNone}, 2
		}, []string{"assigns"}},
		"another tier": {func(in *policy.Input) { in.Tiers[6].Spec.BackendPool, in.Tiers[6].Generation = "own", 2 }, nil},
		"a model": {func(in *policy.Input) {
			in.Models[0].Spec.Resource, in.Models[0].Generation = "images", 2
		}, []string{"assigns", "needs", "plain", "selects"}},
		"a namespace that is admitted":   {func(in *policy.Input) { in.Namespaces = in.Namespaces[1:] }, []string{"selects"}},
		"a namespace that a tier serves": {func(in *policy.Input) { in.Namespaces = in.Namespaces[:1] }, []string{"assigns"}},
		"what a secret holds":            {func(in *policy.Input) { in.Secrets[secret] = holding("another") }, nil},
		"a secret that is gone":          {func(in *policy.Input) { delete(in.Secrets, secret) }, []string{"needs"}},
		"a secret that is empty":         {func(in *policy.Input) { in.Secrets[secret] = holding("") }, []string{"needs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := customers(provider(), 8)
			for _, name := range []string{"plain", "assigns", "selects", "needs"} {
				in.Gateways = append(in.Gateways, &v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name}})
			}
			in.Gateways[1].Spec.Identity.MissingKey = &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &v1alpha1.Ref{Name: "tier-7"}}
			in.Gateways[2].Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesSelector, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"paid": "yes"}}}}
			in.Gateways[3].Spec.Backends = []v1alpha1.Backend{{Name: "provider", Credential: &v1alpha1.BackendCredential{Header: "x-api-key", SecretKeyRef: v1alpha1.SecretKeyRef{Name: secret.Name, Key: "key"}}}}
			in.Tiers[7].Spec.AllowedNamespaces = &v1alpha1.TierNamespaces{From: v1alpha1.TierNamespacesSelector, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"served": "yes"}}}
			in.Namespaces = []policy.Namespace{{Name: "team-1", Labels: map[string]string{"paid": "yes"}}, {Name: "edge", Labels: map[string]string{"served": "yes"}}}
			in.Secrets[secret] = holding("sk-provider")
			in = identified(in)
			var compiler policy.Compiler
			before, _ := compiler.Compile(in)
			tc.change(&in)
			after, _ := compiler.Compile(in)
			var got []string
			for _, g := range after.Gateways() {
				if was, _ := before.Gateway(g.Name.String()); was != g {
					got = append(got, g.Name.Name)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("made anew (-want +got):\n%s", diff)
			}
		})
	}
}

// identified gives everything identities, as an API server does.
func identified(in policy.Input) policy.Input {
	identify := func(kind string, i int, m *metav1.ObjectMeta) {
		m.UID, m.Generation = types.UID(fmt.Sprintf("%s-%d", kind, i)), 1
	}
	for i := range in.Tiers {
		identify("tier", i, &in.Tiers[i].ObjectMeta)
	}
	for i := range in.Models {
		identify("model", i, &in.Models[i].ObjectMeta)
	}
	for i := range in.Quotas {
		identify("quota", i, &in.Quotas[i].ObjectMeta)
	}
	for i := range in.Users {
		identify("user", i, &in.Users[i].ObjectMeta)
	}
	for i := range in.Gateways {
		identify("gateway", i, &in.Gateways[i].ObjectMeta)
	}
	return in
}

// BenchmarkCompileOneChange is what a Compiler does for one change, beside BenchmarkCompile.
func BenchmarkCompileOneChange(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if n > 10_000 && testing.Short() {
				b.Skip("takes seconds; run it without -short")
			}
			in := identified(customers(provider(), n))
			var compiler policy.Compiler
			compiler.Compile(in)
			states := []v1alpha1.DesiredState{v1alpha1.DesiredStateSuspended, v1alpha1.DesiredStateActive}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q := in.Quotas[i*7%n]
				q.Spec.DesiredState = states[i%2]
				q.Generation++
				compiler.Compile(in)
			}
		})
	}
}

// BenchmarkCompileOneGatewayOfMany is what a Compiler does for a change of one gateway of many, to which 10,000 quotas are admitted.
func BenchmarkCompileOneGatewayOfMany(b *testing.B) {
	for _, n := range []int{100, 1_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			in := customers(provider(), 10_000)
			for i := range n {
				g := v1alpha1.QuotaGateway{}
				g.Namespace, g.Name = fmt.Sprintf("team-%d", i%500), fmt.Sprintf("gateway-%d", i)
				for j := range 6 {
					path := v1alpha1.PathMatch{Type: v1alpha1.PathMatchPathPrefix, Value: fmt.Sprintf("/v1/%d", j)}
					g.Spec.Routes = append(g.Spec.Routes, v1alpha1.Route{Name: fmt.Sprint(j), Resource: "chat", Matches: []v1alpha1.Match{{Path: path}}})
				}
				in.Gateways = append(in.Gateways, &g)
			}
			in = identified(in)
			var compiler policy.Compiler
			compiler.Compile(in)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g := in.Gateways[i*7%n]
				g.Spec.Requests = &v1alpha1.Requests{MaxBodyBytes: int64(i + 1)}
				g.Generation++
				compiler.Compile(in)
			}
		})
	}
}
