package outage_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

func TestFailuresOfASoundStoreAreThoseOfTheStore(t *testing.T) {
	t.Parallel()
	countertest.RunFailures(t, func(t *testing.T) counter.Failures {
		t.Helper()
		return startPatiently(t, sound(), 1).Failures(knownFailures{memory.NewFailures()})
	})
}

// knownFailures know all blocks.
type knownFailures struct{ *memory.Failures }

// Known implements outage.SharedFailures.
func (f knownFailures) Known(now time.Time) []counter.Block {
	all, _ := f.Blocks(context.TODO(), now) //nolint:forbidigo // Memory asks nobody.
	return all
}

// troubledFailures need the store to count.
type troubledFailures struct {
	knownFailures

	of *troubled
}

func (f troubledFailures) Fail(ctx context.Context, now time.Time, s counter.Subject, r counter.Rule) (counter.Outcome, error) {
	if err := f.of.Probe(ctx); err != nil {
		return counter.Ignored, err
	}
	return f.Failures.Fail(ctx, now, s, r)
}

// TestWhoFailsInAnOutageIsBlockedHere, and whoever was blocked before stays so; nobody waits for a store that is silent.
func TestWhoFailsInAnOutageIsBlockedHere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		f := r.Failures(troubledFailures{knownFailures{memory.NewFailures()}, shared})
		rule := counter.Rule{Max: 1, Window: time.Minute, Block: time.Minute}
		block := func(s counter.Subject) {
			t.Helper()
			for _, want := range []counter.Outcome{counter.Counted, counter.Blocked} {
				if got, err := f.Fail(t.Context(), now(), s, rule); got != want || err != nil {
					t.Fatalf("a failure comes to %v, %v, want %v", got, err, want)
				}
			}
		}
		block(counter.Subject{1})
		shared.is(silent)
		began := now()
		block(counter.Subject{2})
		if took := now().Sub(began); took > 20*time.Millisecond {
			t.Errorf("failures wait %v for a store that is silent", took)
		}
		if _, err := f.Lift(t.Context(), now(), counter.Subject{1}); !errors.Is(err, counter.ErrOut) {
			t.Errorf("lifting a block that other replicas know comes to %v, want ErrOut", err)
		}
		if all, err := f.Blocks(t.Context(), now()); len(all) != 2 || err != nil {
			t.Errorf("in the outage the blocks are %v, %v, want both", all, err)
		}
		shared.recovers(r)
		for _, s := range []counter.Subject{{1}, {2}} {
			if _, blocked, err := f.BlockOf(t.Context(), now(), s); !blocked || err != nil {
				t.Errorf("%v is not blocked any more: %v", s, err)
			}
			if lifted, err := f.Lift(t.Context(), now(), s); !lifted || err != nil {
				t.Errorf("lifting the block of %v comes to %v, %v", s, lifted, err)
			}
		}
		if all, err := f.Blocks(t.Context(), now()); len(all) > 0 || err != nil {
			t.Errorf("blocks that were lifted are listed: %v, %v", all, err)
		}
	})
}
