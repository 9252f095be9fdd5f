package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
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
	text     strings.Builder // of which the values of headers are parts
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
func (r *report) headers(denied *int) []Header {
	if r.gateway == nil {
		return nil
	}
	out := make([]Header, 0, mostHeaders(r.gateway))
	r.text.Grow(headerRoom)
	if d := r.gateway.PerMetric; d != nil {
		out = r.tell(out, &perMetricRequests, r.choose(policy.Requests, d.Window, denied), d.RequestsReset)
		out = r.tell(out, &perMetricTokens, r.choose(policy.Tokens, d.Window, denied), d.TokensReset)
	}
	if d := r.gateway.PerResource; d != nil {
		out = r.perResource(out, r.choose(policy.Requests, d.Window, denied))
	}
	if d := r.gateway.IETF; d != nil {
		out = r.ietf(out, d.Window, denied)
	}
	if d := r.gateway.Anthropic; d != nil {
		for i := range anthropicTrios {
			t := &anthropicTrios[i]
			out = r.tell(out, &t.names, r.choose(t.metric, d.Window, denied), policy.ResetRFC3339)
		}
	}
	return out
}

// headerRoom is what the values of most answers take together.
const headerRoom = 192

// keep makes a string of b. All that are kept are parts of one, which is one allocation.
func (r *report) keep(b []byte) string {
	start := r.text.Len()
	r.text.Write(b)
	return r.text.String()[start:]
}

// mostHeaders is how many the gateway's dialects and a denial write, so that the list need not grow.
func mostHeaders(g *policy.Gateway) int {
	n := 2 // Retry-After and x-should-retry
	if g.PerMetric != nil {
		n += 6
	}
	if g.PerResource != nil {
		n += 6
	}
	if g.IETF != nil {
		n += 2
	}
	if g.Anthropic != nil {
		n += 12
	}
	return n
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
func (r *report) tell(out []Header, names *trio, i int, form policy.Reset) []Header {
	if i < 0 {
		return out
	}
	var room [64]byte
	b := strconv.AppendInt(room[:0], r.plan.rules[i].max, 10)
	limit := len(b)
	b = strconv.AppendInt(b, r.remaining(i), 10)
	remaining := len(b)
	values := r.keep(r.appendReset(b, i, form))
	return append(out,
		Header{names.limit, values[:limit]},
		Header{names.remaining, values[limit:remaining]},
		Header{names.reset, values[remaining:]},
	)
}

func (r *report) perResource(out []Header, i int) []Header {
	if i >= 0 {
		var room [20]byte
		out = r.tell(out, &perResourceNames, i, policy.ResetUnixSeconds)
		out = append(out, Header{"X-RateLimit-Used", r.keep(strconv.AppendInt(room[:0], r.counts[i].Used, 10))})
	}
	if r.resource != "" {
		out = append(out, Header{"X-RateLimit-Resource", r.resource})
	}
	if r.terms != nil {
		out = append(out, Header{"X-Request-Priority", strconv.Itoa(r.terms.Priority)})
	}
	return out
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
