package ratelimit

import (
	"strconv"
	"time"

	"github.com/tierkeeper/tierkeeper/policy"
)

// The dialect IETF is draft-ietf-httpapi-ratelimit-headers-11: two lists of RFC 9651. An item of RateLimit-Policy names a
// limit and has the parameters q (quota), qu (quota unit) and w (window in seconds); one of RateLimit has r (what is left
// of the quota) and t (seconds until the window ends). A list without items is no header at all. The parameter pk, which
// would tell apart what is counted apart, is left out: it would name the subject.

// quotaUnits are what q counts, and the first part of a limit's name. The draft registers requests, which is meant where no
// unit is said, and concurrent-requests. It has none for tokens, and tokens without a unit would pass for requests.
var quotaUnits = [...]string{
	policy.Requests:           "requests",
	policy.Tokens:             "tokens",
	policy.InputTokens:        "input-tokens",
	policy.OutputTokens:       "output-tokens",
	policy.ConcurrentRequests: "concurrent-requests",
}

// periods are the second part of a limit's name.
var periods = [...]string{
	policy.NoPer:  "",
	policy.Second: "-second",
	policy.Minute: "-minute",
	policy.Hour:   "-hour",
	policy.Day:    "-day",
	policy.Month:  "-month",
}

// mostInteger is the largest Integer of RFC 9651, section 3.3.1. More is told as that much: a client may do all that it is
// told and more.
const mostInteger = 999_999_999_999_999

// ietf tells of one limit of each metric. The room holds the longest items that there are.
func (r *report) ietf(out *headers, window policy.Per, denied *int) {
	var quotaRoom, leftRoom [512]byte
	quotas, left := quotaRoom[:0], leftRoom[:0]
	for metric := policy.Requests; metric <= policy.ConcurrentRequests; metric++ {
		if i := r.choose(metric, window, denied); i >= 0 {
			quotas, left = r.appendQuota(quotas, i), r.appendLeft(left, i)
		}
	}
	if len(left) == 0 {
		return
	}
	out.add("RateLimit-Policy", quotas)
	out.add("RateLimit", left)
}

func (r *report) appendQuota(b []byte, i int) []byte {
	rule := &r.plan.rules[i]
	b = append(appendItem(b, rule), ";q="...)
	b = strconv.AppendInt(b, min(rule.max, mostInteger), 10)
	if rule.metric != policy.Requests {
		b = append(append(append(b, `;qu="`...), quotaUnits[rule.metric]...), '"')
	}
	if rule.per != policy.NoPer {
		// Months differ, so it is asked how long this one is. A window that slides is as long as its unit.
		start, end := windows[span{rule.per, policy.FixedWindow}].Bounds(r.counts[i].Reset.Add(-1))
		b = strconv.AppendInt(append(b, ";w="...), int64(end.Sub(start)/time.Second), 10)
	}
	return b
}

func (r *report) appendLeft(b []byte, i int) []byte {
	rule := &r.plan.rules[i]
	b = append(appendItem(b, rule), ";r="...)
	b = strconv.AppendInt(b, min(r.remaining(i), mostInteger), 10)
	if rule.per != policy.NoPer {
		b = strconv.AppendInt(append(b, ";t="...), ceilSeconds(r.counts[i].Reset.Sub(r.now)), 10)
	}
	return b
}

// appendItem begins the next item of a list with the limit's name, such as "tokens-minute", which needs no escape.
func appendItem(b []byte, of *rule) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(b, '"'), quotaUnits[of.metric]...)
	return append(append(b, periods[of.per]...), '"')
}
