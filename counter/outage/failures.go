package outage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// SharedFailures can be out with their store.
type SharedFailures interface {
	counter.Failures

	// Known lists the blocks in force of which this process knows, in no order, without asking the store.
	Known(now time.Time) []counter.Block
}

// Failures are those of the shared store while that answers, and else of this process. What was counted in an outage stays here:
// a block that follows from it holds at this replica only. It is safe for concurrent use.
type Failures struct {
	store  *Store
	shared SharedFailures
	local  *memory.Failures
}

var _ counter.Failures = (*Failures)(nil)

// Failures wraps those of the shared store.
func (s *Store) Failures(shared SharedFailures) *Failures {
	return &Failures{store: s, shared: shared, local: memory.NewFailures()}
}

// Sweep forgets what is over of what was counted here.
func (f *Failures) Sweep(now time.Time) { f.local.Sweep(now) }

// Forgotten is how many were forgotten before their time of those that were counted here, since the process began.
func (f *Failures) Forgotten() int64 { return f.local.Forgotten() }

// Any implements [counter.Failures].
func (f *Failures) Any(now time.Time) bool { return f.shared.Any(now) || f.local.Any(now) }

// BlockOf implements [counter.Failures]. The shared ones are asked even in an outage: they know blocks without their store.
func (f *Failures) BlockOf(ctx context.Context, now time.Time, s counter.Subject) (counter.Block, bool, error) {
	if b, blocked, err := f.shared.BlockOf(ctx, now, s); blocked || err != nil {
		return b, blocked, err //nolint:wrapcheck // The store says what went wrong.
	}
	return f.local.BlockOf(ctx, now, s) //nolint:wrapcheck // Memory does not fail.
}

// Fail implements [counter.Failures]. Those of whom the store cannot read what it has are counted here.
func (f *Failures) Fail(ctx context.Context, now time.Time, s counter.Subject, r counter.Rule) (outcome counter.Outcome, err error) {
	err = f.store.do(now, func(st *state) (bool, error) {
		if st.out != nil {
			outcome, err = f.local.Fail(ctx, now, s, r)
		} else {
			outcome, err = f.shared.Fail(st.calls, now, s, r)
		}
		return true, err
	})
	if errors.Is(err, counter.ErrUnreadable) {
		return f.local.Fail(ctx, now, s, r) //nolint:wrapcheck // Memory does not fail.
	}
	return outcome, err
}

// Blocks implements [counter.Failures]. In an outage it lists those of which this replica knows.
func (f *Failures) Blocks(ctx context.Context, now time.Time) ([]counter.Block, error) {
	var shared []counter.Block
	err := f.store.do(now, func(st *state) (_ bool, err error) {
		if st.out != nil {
			shared = f.shared.Known(now)
		} else {
			shared, err = f.shared.Blocks(st.calls, now)
		}
		return true, err
	})
	if err != nil {
		return nil, err
	}
	local, err := f.local.Blocks(ctx, now)
	return append(shared, slices.DeleteFunc(local, func(b counter.Block) bool {
		return slices.ContainsFunc(shared, func(o counter.Block) bool { return o.Subject == b.Subject })
	})...), err
}

// Lift implements [counter.Failures]. It fails in an outage, because replicas go on by the block.
func (f *Failures) Lift(ctx context.Context, now time.Time, s counter.Subject) (lifted bool, err error) {
	err = f.store.do(now, func(st *state) (_ bool, err error) {
		if st.out != nil {
			return true, counter.ErrOut
		}
		lifted, err = f.shared.Lift(st.calls, now, s)
		return true, err
	})
	if err != nil {
		return false, err
	}
	here, err := f.local.Lift(ctx, now, s)
	return lifted || here, err
}
