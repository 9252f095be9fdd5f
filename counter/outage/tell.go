package outage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tierkeeper/tierkeeper/counter"
)

// atOnce is how many calls make up for an outage at the same time.
const atOnce = 64

// claim charges the store all that may be taken here, so that nobody else takes it, and tells it who holds slots.
func (in *standIn) claim(ctx context.Context, now time.Time, store counter.Store) error {
	if err := in.charge(ctx, now, store, true); err != nil {
		return fmt.Errorf("claiming what may be taken in the outage: %w", err)
	}
	if err := in.tellHeld(ctx, now, store, false); err != nil {
		return err
	}
	return in.unread()
}

// tell makes up for the outage, as far as that was not done before: the store is told what was taken, what ended meanwhile, and who
// holds slots.
func (in *standIn) tell(ctx context.Context, now time.Time, store counter.Store) error {
	if err := in.charge(ctx, now, store, false); err != nil {
		return fmt.Errorf("charging what was taken during the outage: %w", err)
	}
	if err := in.settleLate(ctx, now, store); err != nil {
		return fmt.Errorf("settling what ended during the outage: %w", err)
	}
	if err := in.tellHeld(ctx, now, store, true); err != nil {
		return err
	}
	return in.unread()
}

// unread is an error of a counter that was left out, because the store cannot read what it has.
func (in *standIn) unread() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, b := range in.counters {
		if b.unread != nil {
			return b.unread
		}
	}
	return nil
}

// settleLate takes settlements out before they are told: none must be told twice. Those that the store says it has not made are kept, and of
// those that it may have made what can be made again.
func (in *standIn) settleLate(ctx context.Context, now time.Time, store counter.Store) error {
	in.mu.Lock()
	late := in.late
	in.late = nil
	in.mu.Unlock()
	left, err := each(late, func(s counter.Settlement) error {
		err := settle(ctx, now, store, s)
		if err == nil {
			return nil
		}
		done := !errors.Is(err, counter.ErrNotDone) // perhaps
		if done || readable(err) == nil {
			in.lost.Add(1)
		}
		if readable(err) != nil {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.keep(s, done)
		}
		return readable(err)
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	in.late = append(in.late, left...)
	return err
}

// readable is an error but for that of a store that cannot read what it has, which is no reason to stop.
func readable(err error) error {
	if errors.Is(err, counter.ErrUnreadable) {
		return nil
	}
	return err
}

// each calls do for all, for some of them at once, until it fails. It returns those for which it was not called.
func each[T any](all []T, do func(T) error) (left []T, err error) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	var failed atomic.Bool
	for i, one := range all {
		if failed.Load() {
			left = all[i:]
			break
		}
		group.Go(func() error {
			err := do(one)
			if err != nil {
				failed.Store(true)
			}
			return err
		})
	}
	return left, group.Wait() //nolint:wrapcheck // The caller says what for.
}

func settle(ctx context.Context, now time.Time, store counter.Store, s counter.Settlement) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	return store.Settle(ctx, now, s) //nolint:wrapcheck // The caller says what for.
}

// charge corrects what the store knows of counters: to what was taken here, or to all that may be. What the store cannot read is
// asked for alone, from the first time on that it cannot.
func (in *standIn) charge(ctx context.Context, now time.Time, store counter.Store, all bool) error {
	in.mu.Lock()
	var keys []counter.Key
	var asked [][]counter.Key
	for key, b := range in.counters {
		if b.unread == nil {
			keys = append(keys, key)
		} else {
			asked = append(asked, []counter.Key{key})
		}
	}
	in.mu.Unlock()
	asked = slices.AppendSeq(asked, slices.Chunk(keys, counter.MaxLimits))
	_, err := each(asked, func(few []counter.Key) error { return in.chargeFew(ctx, now, store, few, all) })
	return err
}

func (in *standIn) chargeFew(ctx context.Context, now time.Time, store counter.Store, few []counter.Key, all bool) error {
	err := in.adjust(ctx, now, store, few, all)
	unread := errors.Is(err, counter.ErrUnreadable)
	if len(few) == 1 {
		in.mu.Lock()
		defer in.mu.Unlock()
		if b := in.counters[few[0]]; unread {
			b.unread, err = err, nil
		} else {
			b.unread = nil
		}
		return err
	}
	if !unread {
		return err
	}
	for _, key := range few {
		if err := in.chargeFew(ctx, now, store, []counter.Key{key}, all); err != nil {
			return err
		}
	}
	return nil
}

// adjust charges counters by what the store knows too little, and returns what it knows too much.
func (in *standIn) adjust(ctx context.Context, now time.Time, store counter.Store, few []counter.Key, all bool) error {
	more, less, err := in.untold(ctx, now, few, all)
	if err != nil {
		return err
	}
	if err := in.correct(ctx, now, store, charging(now, more)); err != nil {
		return err
	}
	for claimed, charges := range less { // For a window that slides another time is another place.
		if err := in.correct(ctx, now, store, charging(claimed, charges)); err != nil {
			return err
		}
	}
	return nil
}

// correct tells the store. A call that fails may have been carried out, unless the store says that it was not. One that charges is made
// again all the same, one that returns is not: rather too much is charged than too little. What was told of a window that has ended
// meanwhile is nothing that the store knows of the next.
func (in *standIn) correct(ctx context.Context, now time.Time, store counter.Store, s counter.Settlement) error {
	if len(s.Charges) == 0 {
		return nil
	}
	err := settle(ctx, now, store, s)
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, c := range s.Charges {
		b, n := in.counters[c.Key], c.Excess()
		if !b.past(s.Taken) && (err == nil || n < 0 && !errors.Is(err, counter.ErrNotDone)) {
			b.told += n
		}
	}
	return err
}

// untold is by how much the store knows too little of some counters, and too much of others, by when it was told.
func (in *standIn) untold(
	ctx context.Context, now time.Time, keys []counter.Key, all bool,
) (more []counter.Charge, less map[time.Time][]counter.Charge, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	limits := make([]counter.Limit, len(keys))
	for i, key := range keys {
		limits[i] = counter.Limit{Key: key, Window: in.counters[key].window}
	}
	counts := make([]counter.Count, len(keys))
	if err := in.local.Peek(ctx, now, limits, counts); err != nil {
		return nil, nil, err //nolint:wrapcheck // Memory does not fail.
	}
	less = map[time.Time][]counter.Charge{}
	for i, key := range keys {
		b := in.counters[key]
		b.turn(now)
		taken := counts[i].Used
		if all {
			taken = max(taken, b.most)
		}
		switch n := max(taken-b.before, 0) - b.told; {
		case n > 0:
			if b.told == 0 {
				b.claimed = now
			}
			more = append(more, counter.Charge{Key: key, Window: b.window, Used: n})
		case n < 0:
			less[b.claimed] = append(less[b.claimed], counter.Charge{Key: key, Window: b.window, Charged: -n})
		}
	}
	return more, less, nil
}

// tellHeld tells who holds slots. Of those whom the store knows it tells again if it is to: the store may have taken the slots of a call
// that it answered too late, and given them back, by the same lease.
func (in *standIn) tellHeld(ctx context.Context, now time.Time, store counter.Store, again bool) error {
	in.mu.Lock()
	held := map[counter.LeaseID]*lease{}
	for id, l := range in.leases {
		if len(l.slots) > 0 && (again || !l.told) && now.Before(l.expiry) {
			l.told, l.known, held[id] = true, true, l
		}
	}
	in.mu.Unlock()
	_, err := each(slices.Collect(maps.Keys(held)), func(id counter.LeaseID) error {
		l := held[id]
		ctx, cancel := context.WithTimeout(ctx, settling)
		defer cancel()
		err := store.Renew(ctx, now, id, l.slots, l.expiry)
		if readable(err) == nil {
			return nil
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		l.told = false
		return fmt.Errorf("telling who holds slots: %w", err)
	})
	return err
}
