package ratelimit

import (
	"cmp"
	"context"
	"slices"
	"sync"
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

// shadows is what would have been refused, had everything been enforced, since the process began. It is safe for concurrent
// use and bounded: what comes when it is full is counted together.
type shadows struct {
	tally *tally

	mu   sync.Mutex
	seen map[sighting]*Shadow
	rest int64
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
	return &shadows{tally: newTally(), seen: map[sighting]*Shadow{}}
}

func sight(g *policy.Gateway, h *policy.Holder, l policy.Limit) sighting {
	return sighting{g.Name.String(), h.Name, l.Scope, l.Pair, l.Origin}
}

func (s *shadows) record(by sighting, most int64, now time.Time) {
	s.tally.add(labelsOf(by.holder, by.scope, by.pair, by.origin))
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.seen[by]
	if entry == nil {
		if len(s.seen) >= maxSightings {
			s.rest++
			return
		}
		entry = &Shadow{
			Gateway: by.gateway, Key: by.holder, Origin: by.origin, First: now.UTC(),
			Scope: by.scope.String(), Metric: by.pair.Metric.String(), Per: by.pair.Per.String(),
		}
		s.seen[by] = entry
	}
	entry.Max, entry.Last = most, now.UTC()
	entry.Count++
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
	l.shadows.mu.Lock()
	defer l.shadows.mu.Unlock()
	for _, entry := range l.shadows.seen {
		list = append(list, *entry)
	}
	slices.SortFunc(list, func(a, b Shadow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Origin.Field, b.Origin.Field), cmp.Compare(a.Gateway, b.Gateway),
			cmp.Compare(a.Origin.Kind, b.Origin.Kind), cmp.Compare(a.Origin.Name, b.Origin.Name))
	})
	return list, l.shadows.rest
}

// enterShadow plays what the limits would do that are not enforced: all of them are taken or none, as if they were. A store
// that fails leaves nothing to record.
func (l *Limiter) enterShadow(ctx context.Context, now time.Time, id counter.LeaseID, g *policy.Gateway, h *policy.Holder, p *plan, r *descriptor.Reserve, t *taken) {
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
