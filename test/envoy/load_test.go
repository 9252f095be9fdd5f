package envoy_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// A load is a request that is sent again and again at a steady rate, however long the answers take.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu  sync.Mutex
	all []attempt
}

// An attempt is one request of a load.
type attempt struct {
	answer

	began, ended time.Time
	err          error // no answer at all
}

func (a attempt) took() time.Duration { return a.ended.Sub(a.began) }

// limited says that the answer tells limits, so that the request was counted or refused by one.
func (a attempt) limited() bool { return a.header.Get("x-ratelimit-limit-requests") != "" }

// load begins to send a request. At the end of the test it stops.
func (s *system) load(t *testing.T, every time.Duration, r request) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{}
	l.stop = func() {
		cancel()
		l.done.Wait()
	}
	t.Cleanup(l.stop)
	l.done.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				l.done.Go(func() { l.attempt(context.WithoutCancel(ctx), s, r) })
			}
		}
	})
	return l
}

func (l *load) attempt(ctx context.Context, s *system, r request) {
	a := attempt{began: time.Now()}
	a.answer, a.err = s.try(ctx, r)
	a.ended = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, a)
}

// attempts are those so far that are wanted, in the order in which they ended.
func (l *load) attempts(wanted func(attempt) bool) []attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.all), func(a attempt) bool { return !wanted(a) })
}

// between selects attempts by the time at which they began.
func between(from, to time.Time) func(attempt) bool {
	return func(a attempt) bool { return a.began.After(from) && a.began.Before(to) }
}

// spread is the median and the longest of how long the attempts took.
func spread(all []attempt) (median, longest time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	took := make([]time.Duration, len(all))
	for i, a := range all {
		took[i] = a.took()
	}
	slices.Sort(took)
	return took[len(took)/2].Round(100 * time.Microsecond), took[len(took)-1].Round(100 * time.Microsecond)
}
