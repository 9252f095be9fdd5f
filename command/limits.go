package command

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// effectiveLimits is what effective prints. Its JSON form is relied upon by scripts.
type effectiveLimits struct {
	Key      string           `json:"key"`
	Model    string           `json:"model"`
	Resource string           `json:"resource"`
	Limits   []effectiveLimit `json:"limits"` // empty: unlimited
}

type effectiveLimit struct {
	Scope       string `json:"scope"`
	Metric      string `json:"metric"`
	Per         string `json:"per,omitempty"` // not for ConcurrentRequests
	Max         int64  `json:"max"`
	Algorithm   string `json:"algorithm"`
	Enforcement string `json:"enforcement"`
	Exceeded    string `json:"exceeded"`
	// MaxWaitSeconds is how long a request may wait that does not fit; 0 if it is answered at once.
	MaxWaitSeconds int64         `json:"maxWaitSeconds,omitempty"`
	Origin         policy.Origin `json:"origin"`

	status int
}

// newEffectiveLimits resolves what holds. Without a resource, that of the model counts.
func newEffectiveLimits(table *policy.Table, g *policy.Gateway, c *policy.Credential, name policy.Name, model, resource string) effectiveLimits {
	if resource == "" {
		resource = table.Resource(g, model)
	}
	e := effectiveLimits{Key: name.String(), Model: model, Resource: resource, Limits: []effectiveLimit{}}
	for _, l := range table.Resolve(g, c.Holder, model, resource).Limits {
		e.Limits = append(e.Limits, effectiveLimit{
			Scope: l.Scope.String(), Metric: l.Pair.Metric.String(), Per: l.Pair.Per.String(), Max: l.Max,
			Algorithm: l.Algorithm.String(), Enforcement: l.Enforcement(), Exceeded: l.Exceeded(), Origin: l.Origin,
			MaxWaitSeconds: maxWait(l, c.Holder), status: l.Status,
		})
	}
	return e
}

func maxWait(l policy.Limit, h *policy.Holder) int64 {
	if l.Capacity == nil || l.Shadow {
		return 0
	}
	return int64(l.Capacity.MaxWait(h) / time.Second)
}

// answer is what becomes of a request that does not fit.
func (l effectiveLimit) answer() string {
	switch {
	case l.Enforcement == string(v1alpha1.EnforcementShadow):
		return "none: Shadow"
	case l.MaxWaitSeconds > 0:
		return fmt.Sprintf("waits %ds, %d", l.MaxWaitSeconds, l.status)
	default:
		return strconv.Itoa(l.status)
	}
}

// print writes a table for people.
func (e effectiveLimits) print(w io.Writer, h *policy.Holder, standing string) {
	p := newPaint(w)
	about := "all requests"
	if e.Resource != "" {
		about = "requests for the resource " + e.Resource
	}
	if e.Model != "" {
		about += " and the model " + e.Model
	}
	pool := ""
	if h.Pool != "" {
		pool = " and backend pool " + h.Pool
	}
	fmt.Fprintf(w, "Limits of ApiKeyQuota %s, on tier %s with priority %d%s, for %s:\n\n", e.Key, h.Tier, h.Priority, pool, about)
	if len(e.Limits) == 0 {
		fmt.Fprintln(w, "None: nothing is limited.")
	} else {
		e.printLimits(w, p)
	}
	if standing != "" {
		fmt.Fprintln(w, "\n"+p.red(standing))
	}
}

func (e effectiveLimits) printLimits(w io.Writer, p paint) {
	rows := [][]string{{"SCOPE", "METRIC", "PER", "MAX", "ANSWER", "FROM"}}
	for _, l := range e.Limits {
		per := l.Per
		switch {
		case per == "":
			per = "-"
		case l.Algorithm == policy.SlidingWindow.String():
			per += " (sliding)"
		}
		rows = append(rows, []string{
			l.Scope, l.Metric, per, grouped(l.Max), l.answer(), l.Origin.Object().String() + " " + l.Origin.Field,
		})
	}
	printTable(w, p, rows)
}

// grouped writes 1000000 as 1,000,000.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
