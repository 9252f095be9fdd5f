package policy

import (
	"fmt"
	"net/http"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A rule is what one object says about one pair.
type rule struct {
	pair      Pair
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
	rs := &ruleset{resources: map[string][]rule{}, classes: map[string]entry{}, shadow: enforcement == v1alpha1.EnforcementShadow}
	rs.all = newRules(in.Limits, from, "spec.limits")
	rs.pairs.all = bitsOf(rs.all)
	for _, r := range in.Resources {
		rules := newRules(&r.Limits, from, fmt.Sprintf("spec.resources[resource=%s].limits", r.Resource))
		rs.resources[r.Resource] = rules
		rs.pairs.resource |= bitsOf(rules)
	}
	for _, c := range in.Classes {
		e := entry{
			name: c.Class, together: c.Counted == v1alpha1.CountedTogether,
			rules: newRules(&c.Limits, from, fmt.Sprintf("spec.classes[class=%s].limits", c.Class)),
		}
		rs.classes[c.Class] = e
		rs.pairs.model |= bitsOf(e.rules)
	}
	for _, m := range in.Models {
		e := entry{
			name: m.Model, together: m.Counted == v1alpha1.CountedTogether,
			rules: newRules(&m.Limits, from, fmt.Sprintf("spec.models[model=%s].limits", m.Model)),
		}
		rs.models.add(m.Model, e)
		rs.pairs.model |= bitsOf(e.rules)
	}
	return rs
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
