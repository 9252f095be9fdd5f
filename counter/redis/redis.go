// Package redis counts in Redis or Valkey, so that many processes share their counters. It decides how that stays exact, fast
// and small: a script that makes calls as a whole, and all that come at once in one run; one packed value for each entry of a subject; and
// everything expires by itself.
//
// What stands in the store is written down in docs/redis.md.
package redis

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/counter"
)

// layout is the version of all that is kept. A release that keeps it in another way has another number, and so other keys.
const layout = "1"

// patience is how long an answer may take before the connection is given up, and how long the store tries to give back what was
// taken for somebody who has gone. What becomes of a call that gets no answer at all is unknown: what it took ends with its
// window, or its slots with their expiry.
const patience = 5 * time.Second

// A Store keeps counters in Redis. Use New to make one.
//
// A call returns as soon as its context ends. What Acquire took by then, or takes later, is given back. Calls that come while others are on
// their way wait for these, and go together: see the constants of pipeline.
//
// In a Redis Cluster each subject has its place, and a set with several takes from one after the other, in the order of its
// limits. What is taken never exceeds a limit. A refusal gives back what was taken before it; until then others may be refused
// for whom there would be room, so who may have seen that is tried once more. A refusal may also have moved windows of
// the other subjects on to now. Peek, Settle and Renew of several subjects may do part of their work and fail.
type Store struct {
	client rueidis.Client
	ctx    context.Context // of calls that outlive whoever made them; it does not end
	script *rueidis.Lua    // of counters
	spread bool            // over the slots of a cluster
	prefix string          // of all keys
	log    *slog.Logger

	life     atomic.Pointer[life]     // when it was last asked; nil: never
	pipeline atomic.Pointer[pipeline] // what waits to be sent; another once a call has been given up
}

var _ counter.Store = (*Store)(nil)

// Close ends all connections. Calls fail from then on.
func (s *Store) Close() { s.client.Close() }

// valueKey names the value that holds the counters of one entry. The braces make the subject one slot of a cluster.
func (s *Store) valueKey(k counter.Key) string {
	return string(s.appendValueKey(make([]byte, 0, 64), k))
}

func (s *Store) appendValueKey(b []byte, k counter.Key) []byte {
	subject, entry := k.Subject(), k.Entry()
	b = append(append(append(b, s.prefix...), layout...), ":{"...)
	b = append(hex.AppendEncode(b, subject[:]), "}:"...)
	return hex.AppendEncode(b, entry[:])
}

// What stands beside the value of a counter: of one of slots the leases that its value has no room for, and those that were settled of
// late; of another what was restored.
const (
	heldSet     = ":held"
	settledSet  = ":settled"
	restoredKey = ":restored"
)

func (s *Store) besideKey(k counter.Key, what string) string {
	id := k.Counter()
	b := append(s.appendValueKey(make([]byte, 0, 64), k), ':')
	return string(append(hex.AppendEncode(b, id[:]), what...))
}

// Settle implements [counter.Store]. In a cluster it may settle part of the charges and fail. It fails by [counter.ErrNotDone] where
// Redis has answered by nothing but errors.
func (s *Store) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	parts := make([]part, 0, len(settlement.Charges))
	for _, c := range settlement.Charges {
		if c.Matters(settlement.Taken, now) {
			parts = append(parts, correction(c, settlement.Taken))
		}
	}
	h := header{mode: settle, now: micros(now), lease: settlement.Lease}
	var done atomic.Bool // in part, or perhaps
	err := each(s.group(parts, settle), func(g *group) error {
		_, err := s.ask(ctx, s.question(g, h.request(g, g.said)))
		if _, answered := rueidis.IsRedisErr(err); !answered && !errors.Is(err, counter.ErrUnreadable) {
			done.Store(true)
		}
		return wrap("settling", err)
	})
	if err != nil && !done.Load() {
		return fmt.Errorf("%w: %w", counter.ErrNotDone, err)
	}
	return err
}

// correction is the part of a settlement that corrects one counter.
func correction(c counter.Charge, taken time.Time) part {
	p := part{key: c.Key, window: c.Window, amount: amount{moment(c.Window, taken), c.Excess()}}
	if c.Window == counter.InUse {
		p.n = -1
	}
	return p
}

// Renew implements [counter.Store]. In a cluster it may renew part of the slots and fail.
func (s *Store) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	parts := make([]part, len(keys))
	for i, key := range keys {
		parts[i] = part{key: key, window: counter.InUse}
	}
	h := header{mode: renew, now: micros(now), expiry: micros(expiry), lease: lease}
	return each(s.group(parts, renew), func(g *group) error {
		_, err := s.ask(ctx, s.question(g, h.request(g, func(int, *member) amount { return amount{} })))
		return wrap("renewing", err)
	})
}

// Peek implements [counter.Store].
func (s *Store) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	counts = counts[:len(limits)]
	places := make(map[counter.Key]int, len(limits)) // where each counter is named first
	var parts []part
	for _, p := range partsOf(limits) {
		if _, named := places[p.key]; !named {
			places[p.key] = p.place
			parts = append(parts, p)
		}
	}
	var groups []group
	for some := range slices.Chunk(parts, counter.MaxLimits) {
		groups = append(groups, s.group(some, look)...)
	}
	h := header{mode: look, now: micros(now)}
	err := each(groups, func(g *group) error {
		answer, err := s.ask(ctx, s.question(g, h.request(g, func(_ int, m *member) amount { return amount{at: moment(m.window(), now)} })))
		if err == nil {
			_, err = g.read(answer, nil, counts)
		}
		return wrap("looking at", err)
	})
	for i, l := range limits {
		counts[i] = counts[places[l.Key]]
	}
	return err
}
