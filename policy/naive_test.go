package policy_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// naive is the limits of one key as a person works them out who reads the manifests, word by word after the design and
// with no thought of speed. It shares no code with the package.
type naive struct {
	own, tier v1alpha1.KeyLimits
	user      *v1alpha1.KeyLimits
	groups    []*v1alpha1.ModelLimit // without conflicts
}

// ceiling is one limit: at most max on the counter.
type ceiling struct {
	scope     string
	pair      string
	algorithm string
	max       int64
	counter   string
}

// says is something that an object says about a pair. What stands first in a list of them wins.
type says struct {
	pair      string
	algorithm string
	unlimited bool
	max       int64
	entry     string
}

func (n naive) limits(model, resource string) []ceiling {
	var all []ceiling
	scope := func(name string, said ...[]says) {
		var done []string
		for _, s := range slices.Concat(said...) {
			if slices.Contains(done, s.pair) {
				continue
			}
			done = append(done, s.pair)
			if !s.unlimited {
				all = append(all, ceiling{name, s.pair, s.algorithm, s.max, name + "|" + s.entry + "|" + s.pair + "|" + s.algorithm})
			}
		}
	}
	scope("Key", read(n.own.Limits, ""), read(n.tier.Limits, ""))
	scope("KeyResource", ofResource(n.own, resource), ofResource(n.tier, resource))
	group := n.group(model)
	var perKey []says
	if group != nil {
		perKey = read(group.Spec.PerKey, "group "+group.Name)
	}
	scope("KeyModel", n.ofModel(n.own, model), n.ofModel(n.tier, model), perKey)
	if n.user != nil {
		scope("User", read(n.user.Limits, ""))
		scope("UserResource", ofResource(*n.user, resource))
		scope("UserModel", n.ofModel(*n.user, model))
	}
	if group != nil {
		scope("ModelShared", read(group.Spec.Shared, group.Name))
		for _, g := range n.groups {
			if group.Spec.ParentRef != nil && group.Spec.ParentRef.Name == g.Name {
				scope("ModelShared", read(g.Spec.Shared, g.Name))
			}
		}
	}
	return all
}

func read(l *v1alpha1.Limits, entry string) []says {
	if l == nil {
		return nil
	}
	var out []says
	for _, r := range l.Rates {
		s := says{
			pair: fmt.Sprintf("%s per %s", r.Metric, r.Per), algorithm: cmp.Or(string(r.Algorithm), "FixedWindow"),
			unlimited: r.Mode == v1alpha1.ModeUnlimited, entry: entry,
		}
		if r.Max != nil {
			s.max = *r.Max
		}
		out = append(out, s)
	}
	if l.Concurrency != nil {
		out = append(out, says{"ConcurrentRequests", "FixedWindow", l.Concurrency.Mode == v1alpha1.ModeUnlimited, int64(*l.Concurrency.Max), entry})
	}
	return out
}

func ofResource(k v1alpha1.KeyLimits, resource string) []says {
	for _, r := range k.Resources {
		if r.Resource == resource {
			return read(&r.Limits, resource)
		}
	}
	return nil
}

// ofModel lists what one object says about a model: by exact name, by patterns from the longest, by class.
func (n naive) ofModel(k v1alpha1.KeyLimits, model string) []says {
	var own []string
	for _, m := range k.Models {
		own = append(own, m.Model)
	}
	matching := matches(own, model)
	narrowest := matching
	for _, g := range n.groups {
		narrowest = append(narrowest, matches(g.Spec.Models, model)...)
	}
	apart := ""
	if len(narrowest) > 0 {
		slices.SortFunc(narrowest, bySpecificity)
		apart = narrowest[0]
	}
	entry := func(counted v1alpha1.Counted, together string) string {
		if counted == v1alpha1.CountedTogether {
			return together
		}
		return "model " + apart
	}
	var out []says
	for _, name := range matches(own, model) {
		for _, m := range k.Models {
			if m.Model == name {
				out = append(out, read(&m.Limits, entry(m.Counted, "model "+name))...)
			}
		}
	}
	if group := n.group(model); group != nil {
		for _, c := range k.Classes {
			if c.Class == group.Spec.Class {
				out = append(out, read(&c.Limits, entry(c.Counted, "class "+c.Class))...)
			}
		}
	}
	return out
}

// group is the ModelLimit with the most specific match.
func (n naive) group(model string) *v1alpha1.ModelLimit {
	var names []string
	for _, g := range n.groups {
		names = append(names, g.Spec.Models...)
	}
	if names = matches(names, model); len(names) == 0 {
		return nil
	}
	for i, g := range n.groups {
		if slices.Contains(g.Spec.Models, names[0]) {
			return n.groups[i]
		}
	}
	return nil
}

// matches lists the names and patterns that match the model, the most specific first.
func matches(names []string, model string) []string {
	var out []string
	for _, name := range names {
		prefix, isPattern := strings.CutSuffix(name, "*")
		if isPattern && strings.HasPrefix(model, prefix) || name == model && !isPattern {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, bySpecificity)
	return out
}

// bySpecificity orders names that match the same model.
func bySpecificity(a, b string) int {
	specificity := func(name string) int {
		if strings.HasSuffix(name, "*") {
			return len(name)
		}
		return 1000
	}
	return specificity(b) - specificity(a)
}

// ceilings are the limits of a Resolution in the form of the naive model.
func ceilings(r policy.Resolution) []ceiling {
	var out []ceiling
	for _, l := range r.Limits {
		out = append(out, ceiling{l.Scope.String(), l.Pair.String(), l.Algorithm.String(), l.Max, l.Counter})
	}
	return out
}

// A request costs one of everything but tokens.
type request struct {
	model, resource string
	tokens          int64
}

// ledger counts within a minute around midnight: see midnight.
type ledger map[string]int64

// midnight starts every fixed window anew. What slides still counts.
func (l ledger) midnight() {
	maps.DeleteFunc(l, func(counter string, _ int64) bool { return !strings.HasSuffix(counter, "SlidingWindow") })
}

// admits charges a request to all its limits if it fits into every one of them.
func (l ledger) admits(r request, limits []ceiling) bool {
	cost := func(c ceiling) int64 {
		if strings.Contains(c.pair, "Tokens") {
			return r.tokens
		}
		return 1
	}
	for _, c := range limits {
		if l[c.counter]+cost(c) > c.max {
			return false
		}
	}
	for _, c := range limits {
		l[c.counter] += cost(c)
	}
	return true
}
