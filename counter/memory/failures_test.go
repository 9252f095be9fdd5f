package memory_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

func TestFailures(t *testing.T) {
	t.Parallel()
	countertest.RunFailures(t, func(*testing.T) counter.Failures { return memory.NewFailures() })
}

// TestSweptFailures shows that nobody can see what a sweep takes away.
func TestSweptFailures(t *testing.T) {
	t.Parallel()
	countertest.RunFailures(t, func(*testing.T) counter.Failures { return &sweptFailures{memory.NewFailures()} })
}

type sweptFailures struct{ *memory.Failures }

func (s *sweptFailures) Fail(ctx context.Context, now time.Time, subject counter.Subject, r counter.Rule) (counter.Outcome, error) {
	s.Sweep(now)
	return s.Failures.Fail(ctx, now, subject, r)
}

var threeInTenSeconds = counter.Rule{Max: 3, Window: 10 * time.Second, Block: time.Minute}

func numbered(n int) (s counter.Subject) {
	binary.BigEndian.PutUint64(s[:], uint64(n)) //nolint:gosec // Not negative.
	return s
}

func fail(t testing.TB, f *memory.Failures, now time.Time, subject int) counter.Outcome {
	t.Helper()
	outcome, err := f.Fail(t.Context(), now, numbered(subject), threeInTenSeconds)
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func TestSweepForgetsFailuresThatAreOver(t *testing.T) {
	t.Parallel()
	const grace = time.Minute
	f := memory.NewFailures()
	fail(t, f, noon, 1)
	for range 4 {
		fail(t, f, noon, 2)
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{
		{10*time.Second + grace, 2}, {10*time.Second + grace + 1, 1}, {time.Minute + grace, 1}, {time.Minute + grace + 1, 0},
	} {
		f.Sweep(noon.Add(step.after))
		if got := f.Len(); got != step.want {
			t.Errorf("after %v there are %d subjects, want %d", step.after, got, step.want)
		}
	}
}

// Whoever fails from ever new addresses makes the store forget those that failed the longest ago, and not grow.
func TestFailuresAreBounded(t *testing.T) {
	t.Parallel()
	const most = 100_000
	f := memory.NewFailures()
	for range 4 {
		fail(t, f, noon, 0)
	}
	fail(t, f, noon, 1)
	for i := 2; i < most; i++ {
		fail(t, f, noon, i)
	}
	fail(t, f, noon, 1) // It is not the oldest any more.
	if f.Len() != most || f.Forgotten() != 0 {
		t.Fatalf("%d subjects, %d forgotten, want %d and none", f.Len(), f.Forgotten(), most)
	}
	for i := range 10 {
		fail(t, f, noon, most+i)
	}
	if f.Len() != most || f.Forgotten() != 10 {
		t.Errorf("%d subjects, %d forgotten, want %d and 10", f.Len(), f.Forgotten(), most)
	}
	if fail(t, f, noon, 1); fail(t, f, noon, 1) != counter.Blocked {
		t.Error("a subject that failed not long ago was forgotten")
	}
	if blocks, err := f.Blocks(t.Context(), noon); err != nil || len(blocks) != 1 {
		t.Errorf("%d blocks, error %v, want that of the last subject alone", len(blocks), err)
	}
}

// The times of failures are bounded as well, whatever rules allow.
func TestTimesOfFailuresAreBounded(t *testing.T) {
	t.Parallel()
	f := memory.NewFailures()
	many := counter.Rule{Max: 1000, Window: time.Hour, Block: time.Minute}
	for i := range 4200 {
		for range 1000 {
			if _, err := f.Fail(t.Context(), noon, numbered(i), many); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := f.Len(), 4<<20/1000+1; got > want {
		t.Errorf("the failures of %d subjects are kept, want at most %d", got, want)
	}
}

// A request of a gateway that blocks nobody must not pay for the protection.
func TestAskingWhereNobodyIsBlockedAllocatesNothing(t *testing.T) {
	f := memory.NewFailures()
	fail(t, f, noon, 1)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = f.BlockOf(t.Context(), noon, numbered(1)) }); n != 0 {
		t.Errorf("asking makes %v allocations, want none", n)
	}
}

func BenchmarkFailures(b *testing.B) {
	b.Run("nobody is blocked", func(b *testing.B) {
		f := memory.NewFailures()
		for b.Loop() {
			f.Any(noon)
		}
	})
	b.Run("one of 100,000", func(b *testing.B) {
		f := memory.NewFailures()
		for i := range 100_000 {
			fail(b, f, noon, i)
		}
		for range 3 {
			fail(b, f, noon, 7)
		}
		for b.Loop() {
			if _, blocked, _ := f.BlockOf(b.Context(), noon, numbered(8)); blocked {
				b.Fatal("it is blocked")
			}
		}
	})
	b.Run("fail", func(b *testing.B) {
		f := memory.NewFailures()
		for i := 0; b.Loop(); i++ {
			fail(b, f, noon, i%200_000)
		}
	})
	b.Run("sweep of 100,000", func(b *testing.B) {
		f := memory.NewFailures()
		for i := range 100_000 {
			fail(b, f, noon, i)
		}
		for b.Loop() {
			f.Sweep(noon)
		}
	})
}
