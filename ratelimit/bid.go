package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// bidExpiry is after how long the bid of a replica that has died counts no more. Clocks may lie apart by half of it.
const bidExpiry = 4 * time.Second

// A bid tells other replicas that somebody waits here, and of which rank the one is who is next. It is a slot of a counter that the
// store has for each rank.
type bid struct {
	lease   counter.LeaseID
	rank    int // 0: nobody waits
	renewed time.Time
}

// bidKeys are the counters of bids, by rank.
func bidKeys(group string) (keys [highestRank + 1]counter.Key) {
	const entry = "waiting"
	for rank := range keys {
		name := fmt.Sprintf("%q %s rank %d", group, entry, rank)
		keys[rank] = keyOf(policy.Limit{Scope: policy.ScopeModelShared, Subject: group, Entry: entry, Counter: name})
	}
	return keys
}

// tell makes the bid that of a rank, 0 if nobody waits. One that the store does not take back expires. Only the goroutine that gives
// out slots may call it.
func (q *queue) tell(ctx context.Context, rank int) error {
	now, b := q.clock(), q.bid
	var taken, given error
	if b.rank != rank {
		q.setBid(bid{}) // first: rather is one's own taken for another's for a moment than another's for one's own
		if b.rank > 0 {
			taken = q.store.Settle(ctx, now, counter.Settlement{
				Lease: b.lease, Taken: now, Charges: []counter.Charge{{Key: q.bidKeys[b.rank], Window: counter.InUse}},
			})
		}
		b = bid{lease: q.leases.next(), rank: rank}
	}
	if rank > 0 && now.Sub(b.renewed) >= bidExpiry/2 {
		given = q.store.Renew(ctx, now, b.lease, []counter.Key{q.bidKeys[rank]}, now.Add(bidExpiry))
		if given == nil {
			b.renewed = now
		}
	}
	q.setBid(b)
	return errors.Join(taken, given)
}

func (q *queue) setBid(b bid) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bid = b
}

// A scene is what a queue looks at: the slots in use, the bids, and what those tiers have under way that have a share.
type scene struct {
	capacity *policy.Capacity // nil: there is none any more
	limits   []counter.Limit  // the capacity's, then those of bids by rank, then those of tiers
	tiers    []string
}

func (q *queue) newScene(c *policy.Capacity) scene {
	s := scene{capacity: c}
	if c == nil {
		return s
	}
	see := func(k counter.Key) { s.limits = append(s.limits, counter.Limit{Key: k, Window: counter.InUse}) }
	see(q.key)
	for _, key := range q.bidKeys[1:] {
		see(key)
	}
	for tier, share := range c.Shares {
		see(keyOf(shareLimit(c, share)))
		s.tiers = append(s.tiers, tier)
	}
	return s
}

// A view is what a queue has seen.
type view struct {
	capacity *policy.Capacity
	free     int64                  // slots
	inUse    map[string]int64       // by tiers that have a share
	bids     [highestRank + 1]int64 // of other replicas, by rank
}

// entitled reports whether a tier has not used up its share.
func (v *view) entitled(tier string) bool {
	return v.capacity != nil && v.inUse[tier] < v.capacity.Shares[tier].Size
}

// turn reports whether a free slot is for one who waits here and has that rank: not while somebody of a higher one waits elsewhere.
// Among equals it is for the replica that looks first, and not for the one where it was freed, which would keep all its slots.
func (v *view) turn(rank int, told bool) bool {
	for _, higher := range v.bids[rank+1:] {
		if higher > 0 {
			return false
		}
	}
	return v.bids[rank] == 0 || !told
}

// look asks the store.
func (q *queue) look(ctx context.Context) (view, error) {
	q.mu.Lock()
	s, own := q.scene, q.bid.rank
	q.mu.Unlock()
	v := view{capacity: s.capacity, free: math.MaxInt64}
	if s.capacity == nil {
		return v, nil
	}
	now, counts := q.clock(), make([]counter.Count, len(s.limits))
	if err := q.store.Peek(ctx, now, s.limits, counts); err != nil {
		return v, err //nolint:wrapcheck // The caller says what for.
	}
	v.free = s.capacity.Max - counts[0].Used
	elsewhere := false
	for rank := 1; rank <= highestRank; rank++ {
		v.bids[rank] = counts[rank].Used
		if rank == own {
			v.bids[rank] = max(v.bids[rank]-1, 0)
		}
		elsewhere = elsewhere || v.bids[rank] > 0
	}
	if len(s.tiers) > 0 {
		v.inUse = make(map[string]int64, len(s.tiers))
	}
	for i, tier := range s.tiers {
		v.inUse[tier] = counts[1+highestRank+i].Used
	}
	if !elsewhere && v.free > 0 {
		q.others.full.Store(false)
	}
	q.others.wait.Store(elsewhere)
	q.others.looked.Store(now.UnixNano())
	return v, nil
}

// others is what those who come know of those who wait at other replicas.
type others struct {
	full   atomic.Bool  // somebody who came here found no slot or took the last, and since then nobody looked and saw one
	wait   atomic.Bool  // somebody did when the queue last looked
	looked atomic.Int64 // when that was, in nanoseconds since 1970
}

// busy reports whether anybody waits, here or elsewhere, so that nobody may overtake. Nobody waits for what was never full. But those
// who wait elsewhere find a slot only after a while: one that is free does not say that nobody does.
func (q *queue) busy(ctx context.Context) bool {
	if q.waiting.Load() > 0 {
		return true
	}
	if !q.others.full.Load() {
		return false
	}
	now, looked := q.clock().UnixNano(), q.others.looked.Load()
	apart := time.Duration(now - looked).Abs() // The clock may have been set back since.
	if apart >= lookAgain && q.others.looked.CompareAndSwap(looked, now) {
		_, _ = q.look(ctx) // A store that fails is seen where slots are taken.
	}
	return q.others.wait.Load()
}
