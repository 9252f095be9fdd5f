package ratelimit_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// A process that was stopped reads calls before it reads that their callers have gone.
func TestACallerThatWentWhileTheProcessStoodStillIsNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, oneTier(`{rates: [{metric: Requests, per: Day, max: 5}]}`))
		var stood time.Duration
		now := func() time.Time { return time.Now().Add(stood) } //nolint:forbidigo // It is the bubble's clock.
		s.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(now))
		s.SetTable(s.table)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go s.Watch(ctx)
		synctest.Wait()
		takes := func(ctx context.Context) (time.Duration, error) {
			began := time.Now() //nolint:forbidigo // It is the bubble's clock.
			_, err := s.Reserve(ctx, chat("sk-alice"))
			return time.Since(began), err //nolint:forbidigo // It is the bubble's clock.
		}
		if took, err := takes(t.Context()); took != 0 || err != nil {
			t.Errorf("while nothing is wrong a call took %s: %v", took, err)
		}

		stood = time.Second
		gone, goes := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer goes()
		if _, err := takes(gone); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller of whom it is heard late that he has gone got %v", err)
		}
		if took, err := takes(t.Context()); took != 100*time.Millisecond || err != nil {
			t.Errorf("a caller who is still there was answered after %s with %v, want after 100ms", took, err)
		}
		time.Sleep(200 * time.Millisecond) //nolint:forbidigo // It is the bubble's clock.
		if took, err := takes(t.Context()); took != 0 || err != nil {
			t.Errorf("later a call took %s: %v", took, err)
		}
		s.clock.set(now())
		if diff := cmp.Diff(map[string]int64{"Key Requests per Day": 3}, s.used(t, chat("sk-alice"))); diff != "" {
			t.Errorf("what is charged (-want +got):\n%s", diff)
		}
		stop()
		synctest.Wait()
	})
}

// The beat that notices may come a moment after a call has looked at the clock, and a call sees milliseconds only.
func TestACallThatIsOlderThanTheNoticeOfAStallWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, oneTier(`{rates: [{metric: Requests, per: Day, max: 5}]}`))
		var stood, behind atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(stood.Load() - behind.Load())) } //nolint:forbidigo // It is the bubble's clock.
		s.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(now))
		s.SetTable(s.table)
		ctx, stop := context.WithCancel(t.Context())
		go s.Watch(ctx)
		synctest.Wait()
		stood.Store(int64(time.Second + 500*time.Microsecond))
		pause(50 * time.Millisecond) // to the next beat
		for _, by := range []time.Duration{0, 10 * time.Microsecond, time.Second} {
			behind.Store(int64(by))
			gone, goes := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := s.Reserve(gone, chat("sk-alice")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a caller who has gone, whose call is %s older than the notice, got %v", by, err)
			}
			goes()
		}
		stop()
		synctest.Wait()
	})
}

// What Redis answers to a process that was stopped meanwhile is read before the word that the caller has gone.
func TestACallerThatWentWhileTheProcessStoodStillWithinACallIsNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveAt(t, nil, oneTier(`{rates: [{metric: Requests, per: Day, max: 5}], concurrency: {max: 5}}`))
		var stood atomic.Int64
		now := func() time.Time { return s.clock.now().Add(time.Duration(stood.Load())) }
		s.Limiter = ratelimit.New(&slowStore{s.store, func() { stood.Store(int64(time.Second)) }}, secret, ratelimit.WithClock(now))
		s.SetTable(s.table)
		ctx, stop := context.WithCancel(t.Context())
		go s.Watch(ctx)
		synctest.Wait()
		gone, goes := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer goes()
		if _, err := s.Reserve(gone, chat("sk-alice")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller of whom it is heard late that he has gone got %v", err)
		}
		want := map[string]int64{"Key Requests per Day": 0, "Key ConcurrentRequests": 0}
		if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
			t.Errorf("what is charged (-want +got):\n%s", diff)
		}
		stop()
		synctest.Wait()
	})
}

// To a clock that is set ahead it looks as if the process had stood still, but not any more when it is set back.
func TestAClockThatIsSetBackDelaysNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, oneTier(`{rates: [{metric: Requests, per: Day, max: 5}]}`))
		var ahead atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } //nolint:forbidigo // It is the bubble's clock.
		s.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(now))
		s.SetTable(s.table)
		ctx, stop := context.WithCancel(t.Context())
		go s.Watch(ctx)
		synctest.Wait()
		ahead.Store(int64(time.Hour))
		pause(time.Second)
		ahead.Store(0)
		pause(time.Second)
		began := time.Now() //nolint:forbidigo // It is the bubble's clock.
		s.pass(t, chat("sk-alice"))
		if took := time.Since(began); took != 0 { //nolint:forbidigo // It is the bubble's clock.
			t.Errorf("a second after the clock was set back a call took %s", took)
		}
		stop()
		synctest.Wait()
	})
}
