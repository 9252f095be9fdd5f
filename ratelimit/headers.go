package ratelimit

import (
	"strconv"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A report is what a response tells of limits. Without holder and plan nothing is known but the resource.
type report struct {
	gateway  *policy.Gateway // nil: no dialect is known
	holder   *policy.Holder
	plan     *plan
	counts   []counter.Count
	resource string
	now      time.Time
}

// deny words the denial by limit number i.
func (r *report) deny(i int, p descriptor.Protocol) Decision {
	l := r.plan.limits[i]
	d, wait := limitDenials[l.Status], ceilSeconds(r.counts[i].Reset.Sub(r.now))
	if l.Pair.Metric == policy.ConcurrentRequests {
		d, wait = concurrencyDenial, retryConcurrency
	}
	// Whoever allows nothing will allow nothing in the next window either.
	return d.decide(r.headers(&i), p, wait, l.Max == 0)
}

// mostHeaders is how many both dialects and a denial write, so that the list need not grow.
const mostHeaders = 6 + 6 + 2

// headers writes the gateway's dialects. On a denial the limit that denied takes the place of the one of its metric.
func (r *report) headers(denied *int) []Header {
	if r.gateway == nil {
		return nil
	}
	out := make([]Header, 0, mostHeaders)
	if d := r.gateway.PerMetric; d != nil {
		out = r.perMetric(out, "requests", r.choose(policy.Requests, d.Window, denied), d.RequestsReset)
		out = r.perMetric(out, "tokens", r.choose(policy.Tokens, d.Window, denied), d.TokensReset)
	}
	if d := r.gateway.PerResource; d != nil {
		out = r.perResource(out, r.choose(policy.Requests, d.Window, denied))
	}
	return out
}

// choose finds the limit of the metric to report: of the given window, else of the shortest that has one; of several, the
// one with least remaining. It is -1 if there is none.
func (r *report) choose(m policy.Metric, window policy.Per, denied *int) int {
	if r.plan == nil {
		return -1
	}
	if denied != nil && r.plan.limits[*denied].Pair.Metric == m {
		return *denied
	}
	best := -1
	for i, l := range r.plan.limits {
		if l.Pair.Metric != m || window != policy.NoPer && l.Pair.Per != window {
			continue
		}
		if best >= 0 {
			if b := r.plan.limits[best].Pair.Per; l.Pair.Per > b || l.Pair.Per == b && r.remaining(i) >= r.remaining(best) {
				continue
			}
		}
		best = i
	}
	return best
}

func (r *report) remaining(i int) int64 { return max(r.plan.limits[i].Max-r.counts[i].Used, 0) }

func (r *report) perMetric(out []Header, metric string, i int, form policy.Reset) []Header {
	if i < 0 {
		return out
	}
	return append(out,
		Header{"x-ratelimit-limit-" + metric, decimal(r.plan.limits[i].Max)},
		Header{"x-ratelimit-remaining-" + metric, decimal(r.remaining(i))},
		Header{"x-ratelimit-reset-" + metric, r.reset(i, form)},
	)
}

func (r *report) perResource(out []Header, i int) []Header {
	if i >= 0 {
		out = append(out,
			Header{"X-RateLimit-Limit", decimal(r.plan.limits[i].Max)},
			Header{"X-RateLimit-Remaining", decimal(r.remaining(i))},
			Header{"X-RateLimit-Reset", r.reset(i, policy.ResetUnixSeconds)},
			Header{"X-RateLimit-Used", decimal(r.counts[i].Used)},
		)
	}
	if r.resource != "" {
		out = append(out, Header{"X-RateLimit-Resource", r.resource})
	}
	if r.holder != nil {
		out = append(out, Header{"X-Request-Priority", strconv.Itoa(r.holder.Priority)})
	}
	return out
}

func (r *report) reset(i int, form policy.Reset) string {
	end := r.counts[i].Reset
	switch form {
	case policy.ResetDeltaSeconds:
		return decimal(ceilSeconds(end.Sub(r.now)))
	case policy.ResetDuration:
		return (time.Duration(ceilSeconds(end.Sub(r.now))) * time.Second).String()
	default:
		return decimal(ceilUnix(end))
	}
}

// ceilSeconds is never below 1: a client that is told to wait 0 seconds would be refused again.
func ceilSeconds(d time.Duration) int64 { return max(int64((d+time.Second-1)/time.Second), 1) }

// ceilUnix is not before t: windows that slide end between seconds, and a client that waits until then must not be early.
func ceilUnix(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
