package ratelimit

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// maxSightings is how many pairs of holder and limit a report tells apart.
const maxSightings = 1000

// A sighting is what would have refused whose requests.
type sighting struct {
	gateway string
	holder  string
	scope   policy.Scope
	pair    policy.Pair
	origin  policy.Origin
}

// shadows is what would have been refused, had everything been enforced, since the process began: for the metric by key and
// limit, and for the report by gateway too. It is safe for concurrent use and bounded.
type shadows struct {
	metric *refusals
	report *tally[sighting, seen]
}

// seen is what is known of a sighting beside its count.
type seen struct {
	most        int64 // what the limit allowed, the last time
	first, last time.Time
}

// A Shadow says how often a limit that is not enforced would have refused requests of a holder.
type Shadow struct {
	Gateway string        `json:"gateway"`
	Key     string        `json:"key"`             // namespace/name of the ApiKeyQuota, or the client
	Scope   string        `json:"scope,omitempty"` // empty, as metric, for a block of who fails too often
	Metric  string        `json:"metric,omitempty"`
	Per     string        `json:"per,omitempty"` // not for ConcurrentRequests
	Max     int64         `json:"max"`           // as it was the last time
	Origin  policy.Origin `json:"origin"`
	Count   int64         `json:"count"` // requests
	First   time.Time     `json:"first"`
	Last    time.Time     `json:"last"`
}

func newShadows() *shadows {
	return &shadows{metric: newRefusals(), report: newTally[sighting, seen](maxSightings)}
}

func sight(g *policy.Gateway, h *policy.Holder, l policy.Limit) sighting {
	return sighting{g.Name.String(), h.Name, l.Scope, l.Pair, l.Origin}
}

func (s *shadows) record(by sighting, most int64, now time.Time) {
	s.metric.add(labelsOf(by.holder, by.scope, by.pair, by.origin), noted)
	s.report.add(by, func(about *seen) {
		if about.first.IsZero() {
			about.first = now.UTC()
		}
		about.most, about.last = most, now.UTC()
	})
}

// Shadows lists what limits that are not enforced would have refused since the process began, the most frequent first, and
// how many refusals more there were that are not told apart.
func (l *Limiter) Shadows() (list []Shadow, more int64) {
	now := l.clock()
	l.rehearsals.each(func(r *rehearsal) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.play(now)
	})
	more = l.shadows.report.each(func(by sighting, n *named[seen]) {
		if n.count == 0 {
			return // It has its name since its last refusal.
		}
		list = append(list, Shadow{
			Gateway: by.gateway, Key: by.holder, Scope: by.scope.String(), Metric: by.pair.Metric.String(), Per: by.pair.Per.String(),
			Max: n.kept.most, Origin: by.origin, Count: n.count, First: n.kept.first, Last: n.kept.last,
		})
	})
	slices.SortFunc(list, func(a, b Shadow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Origin.Field, b.Origin.Field), cmp.Compare(a.Gateway, b.Gateway),
			cmp.Compare(a.Origin.Kind, b.Origin.Kind), cmp.Compare(a.Origin.Name, b.Origin.Name))
	})
	return list, more
}

// enterShadow plays what the limits would do that are not enforced: all of them are taken or none, as if they were. A store
// that fails leaves nothing to record.
func (l *Limiter) enterShadow(ctx context.Context, now time.Time, id counter.LeaseID, p *plan, r *descriptor.Reserve, t *taken) {
	g, h := p.gateway, p.holder
	if p.shadow != nil {
		ok, err := p.acquireShadow(ctx, now, id, t)
		if err != nil {
			return
		}
		if !ok {
			limit := p.limits[p.worst(t, p.enforced, len(p.limits))]
			l.shadows.record(sight(g, h, limit), limit.Max, now)
			return
		}
	}
	for _, c := range p.rehearsed {
		share, at := "", l.clock() // Not cut to milliseconds: ends are not either.
		if _, ok := c.limit.Capacity.Shares[h.Tier]; ok {
			share = h.Tier
		}
		c.arrive(&actor{
			waiter: waiter{lease: id, holder: h.Name, lane: lane{share, h.Priority}, arrived: at, bytes: held(r)},
			by:     sight(g, h, c.limit), most: c.limit.Max,
		}, c.limit.Capacity.MaxWait(h), at)
	}
}
