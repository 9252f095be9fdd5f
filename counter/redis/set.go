package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A set is the counters of one identity.
type set struct {
	store  *Store
	size   int
	groups []group // in the order in which they are taken from
}

// Open implements [counter.Store].
func (s *Store) Open(limits []counter.Limit) counter.Set {
	if len(limits) > counter.MaxLimits {
		panic(fmt.Sprintf("redis: %d limits in one set, at most %d are possible", len(limits), counter.MaxLimits))
	}
	places := make(map[counter.Key]int, len(limits))
	for i, l := range limits {
		if !l.Window.Valid() {
			panic(fmt.Sprintf("redis: limit %d has an unknown window, %v", i, l.Window))
		}
		if other, twice := places[l.Key]; twice {
			panic(fmt.Sprintf("redis: limits %d and %d of one set have the same key", other, i))
		}
		places[l.Key] = i
	}
	return &set{s, len(limits), s.group(partsOf(limits), take)}
}

// An attempt is one call of Acquire.
type attempt struct {
	*set
	header
	at     time.Time
	hits   []int64
	counts []counter.Count
}

// Acquire implements [counter.Set].
func (s *set) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	a := attempt{
		set: s, header: header{mode: take, final: true, now: micros(now), lease: lease}, at: now,
		hits: hits[:s.size], counts: counts[:s.size],
	}
	a.expiry = max(micros(expiry), a.now+1)
	st, err := a.tryAll(ctx)
	if err == nil && st == doubted {
		st, err = a.tryAll(ctx)
	}
	return st == admitted, err
}

// request is the one to do with a group what the header says.
func (a *attempt) request(g *group) []byte {
	return a.header.request(g, func(_ int, m *member) amount {
		return amount{moment(m.window(), a.at), min(a.hits[m.place], counter.MaxCount+1)}
	})
}

// run does it.
func (a *attempt) run(ctx context.Context, g *group) (status, taken, error) {
	t := taken{question: a.store.question(g, a.request(g))}
	var err error
	if t.answer, err = a.store.ask(ctx, t.question); err != nil {
		return refused, t, wrap("taking from", err)
	}
	hits := a.hits
	if a.mode == look {
		hits = nil
	}
	st, err := g.read(t.answer, hits, a.counts)
	return st, t, wrap("taking from", err)
}

// tryAll takes from one group after the other, or gives back what it took.
func (a *attempt) tryAll(ctx context.Context) (status, error) {
	var done []taken
	for i := range a.groups {
		a.final = i == len(a.groups)-1
		st, t, err := a.run(ctx, &a.groups[i])
		if err == nil && st == admitted {
			if !a.final {
				done = append(done, t)
			}
			continue
		}
		if gave := a.store.giveBackInTime(ctx, done); err != nil || gave != nil {
			return refused, errors.Join(err, gave)
		}
		return st, a.lookAt(ctx, i)
	}
	return admitted, nil
}

// lookAt fills the counts of all groups but the one that refused.
func (a *attempt) lookAt(ctx context.Context, but int) error {
	if len(a.groups) == 1 {
		return nil
	}
	others := slices.Delete(slices.Clone(a.groups), but, but+1)
	seen := *a
	seen.mode = look
	return each(others, func(g *group) error {
		_, _, err := seen.run(ctx, g)
		return err
	})
}
