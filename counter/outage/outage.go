// Package outage decides when a store that replicas share is out, and how requests are counted until it is back.
//
// A store is out when a call fails, when calls wait and none was answered for the deadline, or when one waits for several times that,
// whatever becomes of the others. From then on each replica counts for itself, and asks the store no more, until a probe succeeds. What was
// counted meanwhile is charged to the store then, before it is asked again: and at first all that this replica may admit, until the
// others have found the store as well. What all have used by then is what the next outage goes by.
//
// An outage admits, within one window of a limit, at most max + replicas - 1 hits: each replica gets an equal part of what it
// saw remain, or of the whole limit where it saw nothing of the window, and at least one hit. Slots are only counted where there are
// several replicas: a request may end at another than the one that it began at, which would not learn that its slot is free. Calls
// that were under way when the store went out may have been carried out all the same: what they took is charged twice then, never
// too little.
//
// A store that has what it cannot read of one counter is not out. Those who need that counter are counted here meanwhile.
package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
)

const (
	// DefaultDeadline is how long calls wait for a store that answers nobody.
	DefaultDeadline = 10 * time.Millisecond

	probeEvery = 100 * time.Millisecond
	tellEvery  = time.Second // what the store could not be told before
	warnEvery  = time.Minute // of what lasts
	// claims are as many as it takes until every replica has made one.
	claims = 3
	// settling is how long the store may take for one of the calls that make up for an outage.
	settling = time.Second
)

// A Shared store can be out.
type Shared interface {
	counter.Store

	// Probe fails unless the store can be read and written.
	Probe(ctx context.Context) error

	// Life names what the store has held since it was last empty: one that has forgotten everything has another.
	Life(ctx context.Context) (string, error)

	// Restore charges counters what they held before the store forgot it: in each life as much as the replica saw that saw most. It
	// leaves out what it cannot restore.
	Restore(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error
}

// Options say how a Store bears outages.
type Options struct {
	Deadline time.Duration // 0: DefaultDeadline
	Replicas func() int    // that share the store, as far as is known; below 1 counts as 1
	Clock    func() time.Time
	Log      *slog.Logger
}

// A Store asks a shared store while that answers, and else counts in this process. It is safe for concurrent use.
type Store struct {
	shared Shared
	opts   Options
	base   context.Context //nolint:containedctx // Calls end when the store goes out, not when their callers do.

	state   atomic.Pointer[state]
	aside   atomic.Pointer[standIn] // counts for those of whom the store cannot read a counter; nil: there are none
	opening sync.Mutex              // while state or aside changes
	woken   chan struct{}
	owed    chan *standIn // that has ended, and of which the store may not know all
	warned  atomic.Int64  // when it was told last what the store cannot read, in nanoseconds since 1970

	life  string      // of the store, when it was last asked; Run's alone
	first chan string // life, from before the first outage

	seen   *xsync.Map[counter.Key, *seen] // what is not held by leases
	losses atomic.Uint64                  // times that the store had forgotten everything

	outages atomic.Uint64
	lost    atomic.Uint64
}

// New wraps a store. Its calls end with ctx at the latest. Run must run for outages to begin by silence, and to end.
func New(ctx context.Context, shared Shared, o Options) *Store {
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	s := &Store{
		shared: shared, opts: o, base: ctx, seen: xsync.NewMap[counter.Key, *seen](),
		woken: make(chan struct{}, 1), owed: make(chan *standIn, 16), first: make(chan string, 1),
	}
	s.state.Store(s.sound())
	return s
}

func (s *Store) newStandIn(now time.Time) *standIn {
	return newStandIn(now, max(s.opts.Replicas(), 1), &s.lost)
}

// Stats tell of outages, since the process began.
type Stats struct {
	Out     bool   // at the moment
	Outages uint64 // the present one included
	Lost    uint64 // settlements that came in an outage and the store was not told: they were too many to keep, or it failed again
}

// Stats returns what has happened so far.
func (s *Store) Stats() Stats {
	return Stats{Out: s.state.Load().out != nil, Outages: s.outages.Load(), Lost: s.lost.Load()}
}

// LocalShare is the store of those who are admitted the replica's share in an outage.
func (s *Store) LocalShare() counter.Store { return &view{s, share} }

// Allow is the store of those who are all admitted in an outage, and counted.
func (s *Store) Allow() counter.Store { return &view{s, allow} }

// Deny is the store of those who are refused in an outage, by [counter.ErrOut].
func (s *Store) Deny() counter.Store { return &view{s, deny} }

// mode is what becomes of those who ask in an outage.
type mode int

const (
	share mode = iota
	allow
	deny
)

// A view is the store for those of one mode. They share counters.
type view struct {
	*Store

	mode mode
}

// Open implements [counter.Store].
func (v *view) Open(limits []counter.Limit) counter.Set {
	return &set{store: v.Store, mode: v.mode, shared: v.shared.Open(limits), limits: limits, seen: make([]atomic.Pointer[seen], len(limits))}
}

// Settle implements [counter.Store]. What cannot be told the store is kept for later, so that it does not fail.
func (s *Store) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	if in := s.asideOf(settlement.Lease); in != nil {
		if done, err := in.settle(ctx, now, settlement, false); done {
			return err
		}
	}
	asked := false
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.settle(ctx, now, settlement, asked)
		}
		if asked { // The call that failed may have been carried out.
			settlement.Charges = again(settlement.Charges)
		}
		if !matters(settlement, now) {
			return false, nil
		}
		err := s.shared.Settle(st.calls, now, settlement)
		asked = asked || !errors.Is(err, counter.ErrNotDone)
		return true, err
	})
}

// matters reports whether a settlement changes anything.
func matters(s counter.Settlement, now time.Time) bool {
	return slices.ContainsFunc(s.Charges, func(c counter.Charge) bool { return c.Matters(s.Taken, now) })
}

// Renew implements [counter.Store].
func (s *Store) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	if in := s.asideOf(lease); in != nil {
		if done, err := in.renew(ctx, now, lease, keys, expiry); done {
			return err
		}
	}
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.renew(ctx, now, lease, keys, expiry)
		}
		return len(keys) > 0, s.shared.Renew(st.calls, now, lease, keys, expiry)
	})
}

// Peek implements [counter.Store]. In an outage it tells what this replica knows, and fails by [counter.ErrOut] where it knows nothing.
func (s *Store) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.peek(ctx, now, s, limits, counts)
		}
		return len(limits) > 0, s.shared.Peek(st.calls, now, limits, counts)
	})
}

// do makes a call by the state of the store, and again by the next state if the store fails or the stand-in has ended. The call reports
// whether it was made: not by a stand-in that has ended, nor by a store that there was nothing to ask for.
func (s *Store) do(now time.Time, call func(*state) (made bool, err error)) error {
	for {
		st := s.state.Load()
		if st.out != nil {
			if made, err := call(st); made {
				return err
			}
			continue
		}
		waits := st.begin()
		asked, err := call(st)
		if st.end(waits, asked, err) {
			return err
		}
		if err := s.fail(st, now, err); err != nil {
			return err
		}
	}
}

// fail begins an outage, if none has begun since the state was loaded. It returns an error only when everything ends.
func (s *Store) fail(st *state, now time.Time, why error) error {
	if err := s.base.Err(); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if s.state.Load() != st {
		return nil
	}
	out := s.newStandIn(now)
	s.state.Store(&state{out: out})
	st.cancel()
	s.outages.Add(1)
	s.opts.Log.Error("the counter store is out; gateways go on by spec.failure.whenStoreUnavailable", "error", why, "replicas", out.replicas)
	select {
	case s.woken <- struct{}{}:
	default:
	}
	return nil
}

// setAside is who counts for those of whom the store cannot read a counter.
func (s *Store) setAside(now time.Time, why error) *standIn {
	if before := s.warned.Load(); now.UnixNano()-before >= int64(warnEvery) && s.warned.CompareAndSwap(before, now.UnixNano()) {
		s.opts.Log.Warn("the counter store holds what it cannot read; who needs it is counted here", "error", why, "next", "told at most once a minute")
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	in := s.aside.Load()
	if in == nil {
		in = s.newStandIn(now)
		s.aside.Store(in)
	}
	return in
}

// asideOf is who counts for a lease that was given aside; nil: it was not.
func (s *Store) asideOf(lease counter.LeaseID) *standIn {
	if in := s.aside.Load(); in != nil && in.gave(lease) {
		return in
	}
	return nil
}
