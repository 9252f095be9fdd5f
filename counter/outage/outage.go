// Package outage decides when a store that replicas share is out, and how requests are counted until it is back.
//
// A store is out when a call fails, or when calls wait and none was answered for the deadline: a slow answer among others that
// come is waited for. From then on each replica counts for itself, and asks the store no more, until a probe succeeds. What was
// counted meanwhile is charged to the store then, before it is asked again: and at first all that this replica may admit, until the
// others have found the store as well.
//
// An outage admits, within one window of a limit, at most max + replicas - 1 hits: each replica gets an equal part of what it
// saw remain, or of the whole limit where it saw nothing of the window, and at least one hit. Calls that were under way when the
// store went out may have been carried out all the same: what they took is charged twice then, never too little.
package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
)

const (
	// DefaultDeadline is how long calls wait for a store that answers nobody.
	DefaultDeadline = 10 * time.Millisecond

	// ticks are in a deadline. They are counted, rather than time: a process that stood still has not listened.
	ticks      = 4
	starving   = 10 // deadlines are waited for at most by a process that is short of CPU
	probeEvery = 100 * time.Millisecond
	// claims are as many as it takes until every replica has made one.
	claims = 3
	// settling is how long the store may take for one of the calls that make up for an outage.
	settling = time.Second
)

var errSilent = errors.New("it did not answer in time")

// A Shared store can be out.
type Shared interface {
	counter.Store

	// Probe fails unless the store can be read and written.
	Probe(ctx context.Context) error

	// Life names what the store has held since it was last empty: one that has forgotten everything has another.
	Life(ctx context.Context) (string, error)

	// Restore charges counters what they held before the store forgot them: each once in a life, whoever is the first. It leaves out
	// what it cannot restore.
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
	opening sync.Mutex // while state changes
	woken   chan struct{}

	owed  []*standIn  // of former outages, what the store could not be told; Run's alone
	life  string      // of the store, when it was last asked; Run's alone
	first chan string // life, from before the first outage

	seen   *xsync.Map[counter.Key, *seen] // what is not held by leases
	losses atomic.Uint64                  // times that the store had forgotten everything

	pending atomic.Int64
	answers atomic.Uint64
	outages atomic.Uint64
	lost    atomic.Uint64
}

// A state is either of a store that answers, or of one that is out.
type state struct {
	calls  context.Context //nolint:containedctx // That of all calls, which end together.
	cancel context.CancelFunc
	out    *standIn // nil: the store answers
}

// New wraps a store. Its calls end with ctx at the latest. Run must run for outages to begin by silence, and to end.
func New(ctx context.Context, shared Shared, o Options) *Store {
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	s := &Store{
		shared: shared, opts: o, base: ctx, seen: xsync.NewMap[counter.Key, *seen](),
		woken: make(chan struct{}, 1), first: make(chan string, 1),
	}
	s.state.Store(s.sound())
	return s
}

func (s *Store) sound() *state {
	calls, cancel := context.WithCancel(s.base)
	return &state{calls: calls, cancel: cancel}
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
	asked := false
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.settle(ctx, now, settlement, asked)
		}
		asked = true
		return true, s.shared.Settle(st.calls, now, settlement)
	})
}

// Renew implements [counter.Store].
func (s *Store) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.renew(ctx, now, lease, keys, expiry)
		}
		return true, s.shared.Renew(st.calls, now, lease, keys, expiry)
	})
}

// Peek implements [counter.Store]. In an outage it tells what this replica knows.
func (s *Store) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	return s.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			return st.out.peek(ctx, now, limits, counts)
		}
		return true, s.shared.Peek(st.calls, now, limits, counts)
	})
}

// do makes a call by the state of the store, and again by the next state if the store fails or the stand-in is done.
func (s *Store) do(now time.Time, call func(*state) (done bool, err error)) error {
	for {
		st := s.state.Load()
		if st.out != nil {
			if done, err := call(st); done {
				return err
			}
			continue
		}
		s.pending.Add(1)
		_, err := call(st)
		s.pending.Add(-1)
		if err == nil {
			s.answers.Add(1)
			return nil
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
	out := newStandIn(now, max(s.opts.Replicas(), 1), &s.lost)
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

// Run notices a store that is silent, and one that is back, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Deadline / ticks)
	defer tick.Stop()
	go func() {
		if life, err := s.shared.Life(ctx); err == nil { // Else it is learnt after the first outage.
			s.first <- life
		}
	}()
	w := silence{every: s.opts.Deadline / ticks, since: s.opts.Clock()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-tick.C:
		}
		st := s.state.Load()
		switch {
		case st.out != nil:
			s.endure(ctx, st.out)
			w.broken(s.opts.Clock())
		case w.lasts(s.opts.Clock(), s.pending.Load() > 0, s.answers.Load()):
			_ = s.fail(st, s.opts.Clock(), errSilent)
		}
	}
}

// silence is how long calls have waited and none was answered.
type silence struct {
	every   time.Duration // between two looks
	ticks   int
	since   time.Time
	looked  time.Time
	answers uint64 // so far
}

func (w *silence) broken(now time.Time) { w.ticks, w.since, w.looked = 0, now, now }

// lasts reports whether it is too long. A look that comes late counts for nothing, up to a point: the process is short of CPU, and
// may not have got around to hear an answer.
func (w *silence) lasts(now time.Time, waits bool, answers uint64) bool {
	late := now.Sub(w.looked) > 2*w.every
	heard := answers != w.answers
	if w.looked, w.answers = now, answers; !waits || heard {
		w.broken(now)
		return false
	}
	if !late {
		w.ticks++
	}
	return w.ticks > ticks || now.Sub(w.since) > starving*ticks*w.every
}

// endure returns when the store is back, or ctx ends.
func (s *Store) endure(ctx context.Context, out *standIn) {
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	for {
		err := s.probe(ctx)
		if err == nil {
			if err = s.recover(ctx, out); err == nil {
				return
			}
		}
		s.opts.Log.Debug("the counter store is still out", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

func (s *Store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.opts.Deadline)
	defer cancel()
	return s.shared.Probe(ctx) //nolint:wrapcheck // It says what is wrong with the store.
}

// recover charges the store what was counted without it, has it asked again, and charges what was counted meanwhile. What it could
// not be told then is owed to it until the next outage ends.
func (s *Store) recover(ctx context.Context, out *standIn) error {
	if err := s.learn(ctx); err != nil {
		return err
	}
	if err := s.claim(ctx, out); err != nil {
		return err
	}
	if err := s.tell(ctx, append(s.owed, out)); err != nil {
		return err
	}
	s.opening.Lock()
	out.end()
	s.state.Store(s.sound())
	s.opening.Unlock()
	s.opts.Log.Info("the counter store is back", "after", s.opts.Clock().Sub(out.since).String())
	if s.owed = nil; s.tell(ctx, []*standIn{out}) != nil {
		s.owed = []*standIn{out}
	}
	return nil
}

// learn finds out whether the store has forgotten everything. What was seen of it is restored as it is asked for.
func (s *Store) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	life, err := s.shared.Life(ctx)
	if err != nil {
		return err //nolint:wrapcheck // It says what is wrong with the store.
	}
	if s.life == "" {
		select {
		case s.life = <-s.first:
		default:
		}
	}
	if s.life != "" && s.life != life {
		s.losses.Add(1)
		s.opts.Log.WarnContext(ctx, "the counter store has forgotten everything; what this replica saw of it is restored: keep it on disk, and copied")
	}
	s.life = life
	return nil
}

// claim returns when the other replicas have found the store as well. What they have admitted, or may until they ask it again, is
// charged to it then: a replica that asked it at once would be admitted the same.
func (s *Store) claim(ctx context.Context, out *standIn) error {
	if out.claimed = s.opts.Clock(); out.replicas == 1 {
		return nil
	}
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	for range claims {
		if err := out.claim(ctx, s.opts.Clock(), s.shared); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
	return nil
}

func (s *Store) tell(ctx context.Context, all []*standIn) error {
	for _, in := range all {
		if err := in.tell(ctx, s.opts.Clock(), s.shared); err != nil {
			return err
		}
	}
	return nil
}
