package ratelimit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A report is what a response tells of limits. Without terms and plan nothing is known but the resource.
type report struct {
	gateway  *policy.Gateway // nil: no dialect is known
	terms    *policy.Terms   // of the holder
	plan     *plan
	counts   []counter.Count
	resource string
	now      time.Time
}

// deny words the denial by limit number i.
func (r *report) deny(i int, p descriptor.Protocol) Decision {
	l := &r.plan.limits[i]
	if l.Capacity != nil {
		return r.denyCapacity(refused, p)
	}
	d, wait := limitDenials[l.Status], ceilSeconds(r.counts[i].Reset.Sub(r.now))
	switch {
	case l.Pair.Metric != policy.ConcurrentRequests:
	case l.Status == http.StatusTooManyRequests:
		d, wait = concurrencyDenial, retryConcurrency
	default: // a capacity that nobody may wait for
		d, wait = capacityDenials[refused], retryService
	}
	// Whoever allows nothing will allow nothing in the next window either.
	return d.decide(r.headers(&i), p, wait, l.Max == 0)
}

// denyCapacity words the denial of a request that did not get a slot of its model's capacity.
func (r *report) denyCapacity(why outcome, p descriptor.Protocol) Decision {
	d, wait := capacityDenials[why], int64(retryService)
	if q := r.plan.capacity.queue; q != nil {
		wait = q.retryAfter()
	}
	return d.decide(r.headers(nil), p, wait, false)
}

// headers writes the gateway's dialects. On a denial the limit that denied takes the place of the one of its metric.
func (r *report) headers(denied *int) *headers {
	out := newHeaders()
	if r.gateway == nil {
		return out
	}
	if d := r.gateway.PerMetric; d != nil {
		r.tell(out, &perMetricRequests, r.choose(policy.Requests, d.Window, denied), d.RequestsReset)
		r.tell(out, &perMetricTokens, r.choose(policy.Tokens, d.Window, denied), d.TokensReset)
	}
	if d := r.gateway.PerResource; d != nil {
		r.perResource(out, r.choose(policy.Requests, d.Window, denied))
	}
	if d := r.gateway.IETF; d != nil {
		r.ietf(out, d.Window, denied)
	}
	if d := r.gateway.Anthropic; d != nil {
		for i := range anthropicTrios {
			t := &anthropicTrios[i]
			r.tell(out, &t.names, r.choose(t.metric, d.Window, denied), policy.ResetRFC3339)
		}
	}
	return out
}

// choose finds the limit of the metric to report: of the given window, else of the shortest that has one; of several, the
// one with least remaining. What has no window is of any. It is -1 if there is none.
func (r *report) choose(m policy.Metric, window policy.Per, denied *int) int {
	if r.plan == nil {
		return -1
	}
	if denied != nil && r.plan.rules[*denied].metric == m {
		return *denied
	}
	best := -1
	for i := range r.plan.rules[:r.plan.enforced] {
		rule := &r.plan.rules[i]
		// How many all callers may have under way at a model is nobody's own.
		if rule.metric != m || rule.capacity || window != policy.NoPer && rule.per != policy.NoPer && rule.per != window {
			continue
		}
		if best >= 0 {
			if b := r.plan.rules[best].per; rule.per > b || rule.per == b && r.remaining(i) >= r.remaining(best) {
				continue
			}
		}
		best = i
	}
	return best
}

func (r *report) remaining(i int) int64 { return max(r.plan.rules[i].max-r.counts[i].Used, 0) }

// A trio is the names of three headers that tell of one limit.
type trio struct{ limit, remaining, reset string }

var (
	perMetricRequests = trio{"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"}
	perMetricTokens   = trio{"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"}
	perResourceNames  = trio{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
)

// Anthropic documents that each reset is a time in RFC 3339, and that tokens that remain are rounded to thousands. Ours are
// exact.
var anthropicTrios = [...]struct {
	metric policy.Metric
	names  trio
}{
	{policy.Requests, anthropic("requests")},
	{policy.Tokens, anthropic("tokens")},
	{policy.InputTokens, anthropic("input-tokens")},
	{policy.OutputTokens, anthropic("output-tokens")},
}

func anthropic(metric string) trio {
	prefix := "anthropic-ratelimit-" + metric
	return trio{prefix + "-limit", prefix + "-remaining", prefix + "-reset"}
}

// tell adds what is to be told of limit number i; of none if i is -1.
func (r *report) tell(out *headers, names *trio, i int, form policy.Reset) {
	if i < 0 {
		return
	}
	var room [32]byte
	out.addNumber(names.limit, r.plan.rules[i].max)
	out.addNumber(names.remaining, r.remaining(i))
	out.add(names.reset, r.appendReset(room[:0], i, form))
}

func (r *report) perResource(out *headers, i int) {
	if i >= 0 {
		r.tell(out, &perResourceNames, i, policy.ResetUnixSeconds)
		out.addNumber("X-RateLimit-Used", r.counts[i].Used)
	}
	if r.resource != "" {
		out.addText("X-RateLimit-Resource", r.resource)
	}
	if r.terms != nil {
		out.addNumber("X-Request-Priority", int64(r.terms.Priority))
	}
}

// appendReset writes when the window ends. Of a fraction of a second the next whole one is told: whoever comes earlier is
// refused again.
func (r *report) appendReset(b []byte, i int, form policy.Reset) []byte {
	end := r.counts[i].Reset
	switch form {
	case policy.ResetDeltaSeconds:
		return strconv.AppendInt(b, ceilSeconds(end.Sub(r.now)), 10)
	case policy.ResetDuration:
		return append(b, (time.Duration(ceilSeconds(end.Sub(r.now))) * time.Second).String()...)
	case policy.ResetRFC3339:
		return time.Unix(ceilUnix(end), 0).UTC().AppendFormat(b, time.RFC3339)
	default:
		return strconv.AppendInt(b, ceilUnix(end), 10)
	}
}

// ceilSeconds is never below 1: a client that is told to wait 0 seconds would be refused again.
func ceilSeconds(d time.Duration) int64 { return max(int64((d+time.Second-1)/time.Second), 1) }

// ceilUnix is not before t: windows that slide end between seconds, and a client that waits until then must not be early.
func ceilUnix(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }
