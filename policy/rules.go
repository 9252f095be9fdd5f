package policy

import (
	"fmt"
	"net/http"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A rule is what one object says about one pair.
type rule struct {
	pair      Pair
	algorithm Algorithm
	unlimited bool
	max       int64
	status    int
	origin    Origin
	capacity  *Capacity // nil for all but the capacity of a ModelLimit
}

// An entry is the rules that one object has for a class, or for the models of one name or pattern.
type entry struct {
	name     string // class, exact model name, or pattern with its trailing "*"
	together bool
	rules    []rule
}

// ruleset is the compiled form of a KeyLimits: everything one object says about one holder. It is immutable.
type ruleset struct {
	all       []rule
	resources map[string][]rule
	classes   map[string]entry
	models    matcher[entry]
	pairs     pairs
	shadow    bool // recorded only
}

func newRuleset(in *v1alpha1.KeyLimits, enforcement v1alpha1.Enforcement, from Origin) *ruleset {
	rs := emptyRuleset(enforcement == v1alpha1.EnforcementShadow)
	rs.say(newRules(in.Limits, from, "spec.limits"))
	for _, r := range in.Resources {
		rs.sayOfResource(r.Resource, newRules(&r.Limits, from, fmt.Sprintf("spec.resources[resource=%s].limits", r.Resource)))
	}
	for _, c := range in.Classes {
		rs.sayOfClass(entry{
			name: c.Class, together: c.Counted == v1alpha1.CountedTogether,
			rules: newRules(&c.Limits, from, fmt.Sprintf("spec.classes[class=%s].limits", c.Class)),
		})
	}
	for _, m := range in.Models {
		rs.sayOfModels(entry{
			name: m.Model, together: m.Counted == v1alpha1.CountedTogether,
			rules: newRules(&m.Limits, from, fmt.Sprintf("spec.models[model=%s].limits", m.Model)),
		})
	}
	return rs
}

// The steps by which a ruleset is made. It is immutable afterwards.

func emptyRuleset(shadow bool) *ruleset { return &ruleset{shadow: shadow} }

func (rs *ruleset) say(rules []rule) {
	rs.all = rules
	rs.pairs.all = bitsOf(rules)
}

func (rs *ruleset) sayOfResource(resource string, rules []rule) {
	if rs.resources == nil {
		rs.resources = map[string][]rule{}
	}
	rs.resources[resource] = rules
	rs.pairs.resource |= bitsOf(rules)
}

func (rs *ruleset) sayOfClass(e entry) {
	if rs.classes == nil {
		rs.classes = map[string]entry{}
	}
	rs.classes[e.name] = e
	rs.pairs.model |= bitsOf(e.rules)
}

func (rs *ruleset) sayOfModels(e entry) {
	rs.models.add(e.name, e)
	rs.pairs.model |= bitsOf(e.rules)
}

func saysNothing(in *v1alpha1.KeyLimits) bool {
	over := in.Limits == nil || len(in.Limits.Rates) == 0 && in.Limits.Concurrency == nil
	return over && len(in.Resources) == 0 && len(in.Classes) == 0 && len(in.Models) == 0
}

func newRules(in *v1alpha1.Limits, from Origin, path string) []rule {
	if in == nil {
		return nil
	}
	out := make([]rule, 0, len(in.Rates)+1)
	for _, r := range in.Rates {
		ru := rule{
			pair:      Pair{metrics[r.Metric], pers[r.Per]},
			algorithm: algorithms[r.Algorithm],
			unlimited: r.Mode == v1alpha1.ModeUnlimited,
			status:    statuses[r.Exceeded],
			origin:    from.at(fmt.Sprintf("%s.rates[metric=%s,per=%s]", path, r.Metric, r.Per)),
		}
		if !ru.unlimited && r.Max != nil {
			ru.max, ru.origin.Field = *r.Max, ru.origin.Field+".max"
		}
		out = append(out, ru)
	}
	if c := in.Concurrency; c != nil {
		ru := rule{
			pair:      Pair{ConcurrentRequests, NoPer},
			unlimited: c.Mode == v1alpha1.ModeUnlimited,
			status:    http.StatusTooManyRequests,
			origin:    from.at(path + ".concurrency"),
		}
		if !ru.unlimited && c.Max != nil {
			ru.max, ru.origin.Field = int64(*c.Max), ru.origin.Field+".max"
		}
		out = append(out, ru)
	}
	return out
}

func (o Origin) at(field string) Origin {
	o.Field = field
	return o
}

var metrics = map[v1alpha1.Metric]Metric{
	v1alpha1.MetricRequests:     Requests,
	v1alpha1.MetricTokens:       Tokens,
	v1alpha1.MetricInputTokens:  InputTokens,
	v1alpha1.MetricOutputTokens: OutputTokens,
}

var pers = map[v1alpha1.Per]Per{
	v1alpha1.PerSecond: Second,
	v1alpha1.PerMinute: Minute,
	v1alpha1.PerHour:   Hour,
	v1alpha1.PerDay:    Day,
	v1alpha1.PerMonth:  Month,
}

var algorithms = map[v1alpha1.Algorithm]Algorithm{
	"":                              FixedWindow,
	v1alpha1.AlgorithmFixedWindow:   FixedWindow,
	v1alpha1.AlgorithmSlidingWindow: SlidingWindow,
}

var statuses = map[v1alpha1.Exceeded]int{
	"":                                  http.StatusTooManyRequests,
	v1alpha1.ExceededTooManyRequests:    http.StatusTooManyRequests,
	v1alpha1.ExceededPaymentRequired:    http.StatusPaymentRequired,
	v1alpha1.ExceededForbidden:          http.StatusForbidden,
	v1alpha1.ExceededServiceUnavailable: http.StatusServiceUnavailable,
}

var exceededNames = map[int]string{
	http.StatusTooManyRequests:    string(v1alpha1.ExceededTooManyRequests),
	http.StatusPaymentRequired:    string(v1alpha1.ExceededPaymentRequired),
	http.StatusForbidden:          string(v1alpha1.ExceededForbidden),
	http.StatusServiceUnavailable: string(v1alpha1.ExceededServiceUnavailable),
}
