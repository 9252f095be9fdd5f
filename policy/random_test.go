package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// The world of the property tests is small, so that random objects meet in it: few names, most of them beginnings of
// others, and few pairs of metric and unit.
var (
	modelNames = []string{"a", "ab", "abc", "abd", "b", "a*", "ab*", "abc*", "b*"}
	classNames = []string{"small", "large"}
	resources  = []string{"chat", "images"}
	fewRates   = []v1alpha1.Rate{
		{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMinute},
		{Metric: v1alpha1.MetricTokens, Per: v1alpha1.PerMinute},
		{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerDay},
	}
	allRates = func() (rates []v1alpha1.Rate) {
		for _, m := range []v1alpha1.Metric{v1alpha1.MetricRequests, v1alpha1.MetricTokens, v1alpha1.MetricInputTokens, v1alpha1.MetricOutputTokens} {
			for _, p := range []v1alpha1.Per{v1alpha1.PerSecond, v1alpha1.PerMinute, v1alpha1.PerHour, v1alpha1.PerDay, v1alpha1.PerMonth} {
				rates = append(rates, v1alpha1.Rate{Metric: m, Per: p})
			}
		}
		return rates
	}()

	// asked are models that requests ask for: named, matched by patterns, and neither.
	asked          = []string{"", "a", "ab", "abc", "abd", "abx", "aby", "abcx", "ax", "ay", "b", "bx", "z", "ab*", "abc\xff"}
	askedResources = []string{"", "chat", "images", "audio"}
)

// a world makes random objects.
type world struct {
	*rapid.T
	rates []v1alpha1.Rate
	most  int // the largest number of rates at one place
}

func (w world) number(most int, label string) int { return rapid.IntRange(0, most).Draw(w.T, label) }

func (w world) ceiling() *int64 { return new(rapid.Int64Range(0, 4).Draw(w.T, "max")) }

// chance is true one time in n.
func (w world) chance(n int, label string) bool { return w.number(n-1, label) == 0 }

func pick[T any](w world, from []T, label string) T { return rapid.SampledFrom(from).Draw(w.T, label) }

// some picks up to n different ones.
func some[T any](w world, from []T, n int, label string) []T {
	return rapid.Permutation(from).Draw(w.T, label)[:w.number(min(n, len(from)), label)]
}

func (w world) limits(liftable bool) v1alpha1.Limits {
	var l v1alpha1.Limits
	for _, r := range some(w, w.rates, w.most, "rates") {
		if liftable && w.chance(6, "unlimited") {
			r.Mode = v1alpha1.ModeUnlimited
		} else {
			r.Max = w.ceiling()
			if r.Per != v1alpha1.PerDay && r.Per != v1alpha1.PerMonth {
				r.Algorithm = pick(w, []v1alpha1.Algorithm{"", v1alpha1.AlgorithmFixedWindow, v1alpha1.AlgorithmSlidingWindow}, "algorithm")
			}
			r.Exceeded = pick(w, []v1alpha1.Exceeded{"", v1alpha1.ExceededPaymentRequired}, "exceeded")
		}
		l.Rates = append(l.Rates, r)
	}
	if len(l.Rates) == 0 || w.chance(3, "concurrency") {
		l.Concurrency = &v1alpha1.Concurrency{Max: new(rapid.Int32Range(0, 4).Draw(w.T, "max"))}
	}
	return l
}

func (w world) optionalLimits(liftable bool) *v1alpha1.Limits {
	if w.chance(2, "no limits") {
		return nil
	}
	return new(w.limits(liftable))
}

func (w world) enforcement() v1alpha1.Enforcement {
	return pick(w, []v1alpha1.Enforcement{"", v1alpha1.EnforcementEnforce, v1alpha1.EnforcementShadow}, "enforcement")
}

func (w world) capacity() *v1alpha1.Capacity {
	c := &v1alpha1.Capacity{ConcurrentRequests: rapid.Int32Range(1, 3+1).Draw(w.T, "capacity")}
	if w.chance(2, "queue") {
		c.Queue = &v1alpha1.CapacityQueue{MaxLength: rapid.Int32Range(1, 3+1).Draw(w.T, "length"), MaxWaitSeconds: rapid.Int32Range(1, 2+1).Draw(w.T, "wait")}
	}
	for _, tier := range some(w, []string{"t0", "t1"}, 1, "reserved") {
		c.Reserved = append(c.Reserved, v1alpha1.ReservedShare{TierName: tier, ConcurrentRequests: 1})
	}
	return c
}

var thresholds = []*v1alpha1.Alerts{nil, {ThresholdPercents: []int32{50}}, {ThresholdPercents: []int32{100, 80}}}

var counted = []v1alpha1.Counted{"", v1alpha1.CountedPerModel, v1alpha1.CountedTogether}

func (w world) keyLimits() v1alpha1.KeyLimits {
	k := v1alpha1.KeyLimits{Limits: w.optionalLimits(true)}
	for _, r := range some(w, resources, 2, "resources") {
		k.Resources = append(k.Resources, v1alpha1.ResourceLimits{Resource: r, Limits: w.limits(true)})
	}
	for _, c := range some(w, classNames, 2, "classes") {
		k.Classes = append(k.Classes, v1alpha1.ClassLimits{Class: c, Counted: pick(w, counted, "counted"), Limits: w.limits(true)})
	}
	for _, m := range some(w, modelNames, 4, "models") {
		k.Models = append(k.Models, v1alpha1.ModelLimits{Model: m, Counted: pick(w, counted, "counted"), Limits: w.limits(true)})
	}
	return k
}

// groups makes ModelLimits; apart: no two name the same model, and parents are in order.
func (w world) groups(apart bool) []*v1alpha1.ModelLimit {
	var groups []*v1alpha1.ModelLimit
	names := rapid.Permutation(modelNames).Draw(w.T, "names")
	for i := range w.number(3, "groups") {
		g := v1alpha1.ModelLimit{ObjectMeta: w.meta("", fmt.Sprintf("m%d", i))}
		g.Labels = pick(w, labelled, "labels")
		g.Spec.Models = names[3*i : 3*i+1+w.number(2, "more names")]
		if !apart {
			g.Spec.Models = append(some(w, modelNames, 2, "models"), fmt.Sprintf("only-m%d", i))
		}
		g.Spec.Class = pick(w, append(classNames, ""), "class")
		if s := w.optionalLimits(false); s != nil {
			g.Spec.Shared = s
		}
		g.Spec.PerKey = w.optionalLimits(false)
		switch {
		case !apart && w.chance(2, "any parent"):
			g.Spec.ParentRef = &v1alpha1.Ref{Name: pick(w, []string{"m0", "m1", "m2", "gone"}, "parent")}
		case apart && i > 0 && w.chance(2, "parent"):
			g.Spec.ParentRef = &v1alpha1.Ref{Name: "m0"}
		}
		groups = append(groups, &g)
	}
	return groups
}

func (w world) meta(namespace, name string) metav1.ObjectMeta {
	age := time.Date(2026, 1, 1+w.number(2, "age"), 0, 0, 0, 0, time.UTC)
	return metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(age)}
}

func digest(n int) string { return policy.HashKey(fmt.Append(nil, n)).String() }

func (w world) tier(name string) v1alpha1.RateLimitTier {
	t := v1alpha1.RateLimitTier{ObjectMeta: w.meta("", name)}
	t.Spec.KeyLimits = w.keyLimits()
	t.Spec.Priority = pick(w, []v1alpha1.Priority{"", v1alpha1.PriorityLow, v1alpha1.PriorityCritical}, "priority")
	t.Spec.BackendPool = pick(w, []string{"", "own"}, "pool")
	t.Spec.Alerts = pick(w, thresholds, "alerts")
	return t
}

var (
	// labelled are labels of ModelLimits, chosen the labels that selectors ask them for.
	labelled = []map[string]string{nil, {"for": "inner"}, {"for": "outer"}}
	chosen   = []*metav1.LabelSelector{
		nil,
		{},
		{MatchLabels: map[string]string{"for": "inner"}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "for", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"inner"}}}},
	}

	namespaces = []string{"team-a", "team-b"}
	selectors  = []*metav1.LabelSelector{
		{},
		{MatchLabels: map[string]string{"paid": "yes"}},
		{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "team-b"}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "paid", Operator: "Near"}}},
	}
)

// input makes an Input in which anything can be wrong that the schema does not rule out.
func (w world) input() policy.Input {
	var in policy.Input
	in.Namespaces = []policy.Namespace{{Name: "team-a", Labels: map[string]string{"paid": "yes"}}}
	for i := range w.number(3, "tiers") {
		t := w.tier(fmt.Sprintf("t%d", i))
		t.Spec.Enforcement = w.enforcement()
		if w.chance(2, "queue") {
			t.Spec.Queue = &v1alpha1.TierQueue{Mode: v1alpha1.QueueWait, MaxWaitSeconds: rapid.Int32Range(1, 2+1).Draw(w.T, "wait")}
		}
		t.Spec.KeyOverrides = pick(w, []v1alpha1.KeyOverrides{"", v1alpha1.KeyOverridesNone, v1alpha1.KeyOverridesAny}, "overrides")
		switch w.number(6, "allowed") {
		case 0:
			t.Spec.AllowedNamespaces = &v1alpha1.TierNamespaces{From: v1alpha1.TierNamespacesNone}
		case 1:
			t.Spec.AllowedNamespaces = &v1alpha1.TierNamespaces{From: v1alpha1.TierNamespacesSelector, Selector: pick(w, selectors, "selector")}
		}
		in.Tiers = append(in.Tiers, &t)
	}
	in.Models = w.groups(false)
	for i := range in.Models {
		spec := &in.Models[i].Spec
		spec.Enforcement = w.enforcement()
		if (spec.Shared == nil || spec.Shared.Concurrency == nil) && w.chance(2, "capacity") {
			spec.Capacity = w.capacity()
		}
	}
	for i := range w.number(3, "quotas") {
		in.Quotas = append(in.Quotas, new(w.quota(fmt.Sprintf("q%d", i))))
	}
	for i := range w.number(2, "users") {
		u := v1alpha1.UserQuota{ObjectMeta: w.meta(pick(w, namespaces, "namespace"), fmt.Sprintf("u%d", i))}
		u.Spec.User, u.Spec.KeyLimits = pick(w, []string{"ann", "bob"}, "user"), w.keyLimits()
		u.Spec.Enforcement = w.enforcement()
		in.Users = append(in.Users, &u)
	}
	for i := range w.number(2, "gateways") {
		in.Gateways = append(in.Gateways, new(w.gateway(fmt.Sprintf("g%d", i))))
	}
	return in
}

func (w world) quota(name string) v1alpha1.ApiKeyQuota {
	q := v1alpha1.ApiKeyQuota{ObjectMeta: w.meta(pick(w, namespaces, "namespace"), name)}
	for i := range 1 + w.number(1, "keys") {
		q.Spec.Keys = append(q.Spec.Keys, v1alpha1.APIKey{Name: fmt.Sprint(i), Digest: digest(w.number(7, "digest"))})
	}
	q.Spec.TierRef.Name = pick(w, []string{"t0", "t0", "t1", "t2"}, "tier")
	q.Spec.User = pick(w, []string{"", "ann", "bob"}, "user")
	if w.chance(2, "own limits") {
		q.Spec.KeyLimits = w.keyLimits()
		q.Spec.Enforcement = w.enforcement()
	}
	q.Spec.Alerts = pick(w, thresholds, "alerts")
	q.Spec.DesiredState = pick(w, []v1alpha1.DesiredState{"", "", v1alpha1.DesiredStateSuspended}, "state")
	return q
}

func (w world) gateway(name string) v1alpha1.QuotaGateway {
	g := v1alpha1.QuotaGateway{ObjectMeta: w.meta(pick(w, namespaces, "namespace"), name)}
	g.Spec.Listeners = []v1alpha1.Listener{{Name: "http", Port: 8080, Protocol: v1alpha1.ListenerProtocolHTTP}}
	g.Spec.Backends = []v1alpha1.Backend{{Name: "demo", Endpoints: []v1alpha1.Endpoint{{Address: "127.0.0.1", Port: 9000}}}}
	for i, path := range some(w, []string{"/", "/v1", "/v1/", "/v1/../v2"}, 3, "paths") {
		g.Spec.Routes = append(g.Spec.Routes, v1alpha1.Route{
			Name: fmt.Sprint(i), BackendName: "demo", Type: v1alpha1.RouteTypeBackend, Protocol: v1alpha1.ProtocolOpaqueBody, Resource: "chat",
			Matches: []v1alpha1.Match{{Path: v1alpha1.PathMatch{Type: v1alpha1.PathMatchPathPrefix, Value: path}}},
		})
	}
	if w.chance(2, "assign") {
		ref := v1alpha1.Ref{Name: pick(w, []string{"t0", "t1"}, "tier")}
		g.Spec.Identity.MissingKey = &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &ref}
	}
	g.Spec.Enforcement = w.enforcement()
	g.Spec.ModelLimitSelector = pick(w, append(chosen, selectors[3]), "modelLimitSelector")
	if w.chance(2, "unknown models") {
		g.Spec.UnknownModels = &v1alpha1.UnknownModels{Action: v1alpha1.UnknownModelsDeny}
	}
	if w.chance(2, "allowed") {
		g.Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesSelector, Selector: pick(w, selectors, "selector")}}
	}
	return g
}

// small is the world for most properties, dense one in which requests meet about as many limits as a lease can carry.
func small(t *rapid.T) world { return world{t, fewRates, 2} }
func dense(t *rapid.T) world { return world{t, allRates, rapid.IntRange(6, 12).Draw(t, "density")} }

// everyone lists the holders of a Table made from in: of all quotas, and of a stranger at all gateways.
func everyone(table *policy.Table, in policy.Input) []*policy.Holder {
	var holders []*policy.Holder
	for _, q := range in.Quotas {
		if c, _ := table.Quota(policy.Name{Namespace: q.Namespace, Name: q.Name}); c != nil && c.Holder != nil {
			holders = append(holders, c.Holder)
		}
	}
	for _, g := range in.Gateways {
		if gateway, _ := table.Gateway(g.Namespace + "/" + g.Name); gateway != nil && gateway.MissingKey != nil {
			holders = append(holders, gateway.MissingKey.Holder(stranger))
		}
	}
	return holders
}

// everywhere is where a Table can be asked: at no gateway, and at each of them.
func everywhere(table *policy.Table) []*policy.Gateway { return append(table.Gateways(), nil) }

// judges are the gateways by which a quota of the namespace is judged: those that admit its keys, or none if there are none.
func judges(table *policy.Table, namespace string) []*policy.Gateway {
	all := slices.DeleteFunc(table.Gateways(), func(g *policy.Gateway) bool { return !g.Admits(namespace) })
	if len(all) == 0 {
		return []*policy.Gateway{nil}
	}
	return all
}

// matching are the ModelLimits that a gateway of the selector counts, told without the package's own means.
func matching(groups []*v1alpha1.ModelLimit, s *metav1.LabelSelector) []*v1alpha1.ModelLimit {
	return slices.DeleteFunc(slices.Clone(groups), func(g *v1alpha1.ModelLimit) bool {
		switch {
		case s == nil:
			return false
		case len(s.MatchExpressions) > 0:
			return g.Labels["for"] == "inner"
		case len(s.MatchLabels) > 0:
			return g.Labels["for"] != "inner"
		}
		return false
	})
}

// verdictOn finds the verdict on an object of the kind by its name, which is unique within the kind in these tests.
func verdictOn(verdicts []policy.Verdict, kind, name string) policy.Verdict {
	for _, v := range verdicts {
		if v.Object.Kind == kind && strings.HasSuffix("/"+v.Object.String(), "/"+name) || v.Object.Kind == kind && v.Object.Name.Name == name {
			return v
		}
	}
	panic("no verdict on " + kind + " " + name)
}
