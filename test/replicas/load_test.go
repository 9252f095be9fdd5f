package replicas_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	perSecond = 300
	lasts     = 50 * time.Millisecond // a request, once it is admitted
	costs     = 40                    // tokens, of 100 that it reserves
)

// A call is one reserve of a load.
type call struct {
	holder   string
	at       time.Time
	took     time.Duration
	admitted bool
	err      error
}

func (c call) ended() time.Time { return c.at.Add(c.took) }

// A load asks about requests at a steady rate, and settles those that are admitted, each at the replica that is next. A replica
// that is slow does not slow it down.
type load struct {
	t    *testing.T
	pick func() *replica

	mu      sync.Mutex
	calls   []call
	settles []error       // those that failed
	late    time.Duration // at most, of what was to be sent: the machine stood still so long

	quit chan struct{}
	all  sync.WaitGroup
}

// startLoad sends for the holders in turn until stop.
func startLoad(t *testing.T, pick func() *replica, holders ...string) *load {
	t.Helper()
	l := &load{t: t, pick: pick, quit: make(chan struct{})}
	l.all.Go(func() {
		next := time.Now()
		for i := 0; ; i++ {
			next = next.Add(time.Second / perSecond)
			select {
			case <-l.quit:
				return
			case <-time.After(time.Until(next)):
				l.attend(time.Since(next))
				l.all.Go(func() { l.send(request{holder: holders[i%len(holders)], model: general, tokens: 100}) })
			}
		}
	})
	return l
}

func (l *load) attend(late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = max(l.late, late)
}

func (l *load) send(q request) {
	began := time.Now()
	answer, err := l.pick().call(l.t.Context(), q.descriptor())
	c := call{holder: q.holder, at: began, took: time.Since(began), err: err}
	var lease string
	if err == nil {
		lease, c.admitted = leaseIn(l.t, answer)
	}
	l.mu.Lock()
	l.calls = append(l.calls, c)
	l.mu.Unlock()
	if !c.admitted {
		return
	}
	<-time.After(lasts)
	if _, err := l.pick().call(l.t.Context(), settling(lease, costs)); err != nil {
		l.mu.Lock()
		l.settles = append(l.settles, err)
		l.mu.Unlock()
	}
}

// stop returns when all is answered and settled.
func (l *load) stop() {
	close(l.quit)
	l.all.Wait()
}

// those are the calls that match.
func (l *load) those(match func(call) bool) (some []call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if match(c) {
			some = append(some, c)
		}
	}
	return some
}

func (l *load) admitted(holder string) int {
	return len(l.those(func(c call) bool { return c.admitted && c.holder == holder }))
}

// latencies describes how long answers took.
func latencies(calls []call) string {
	if len(calls) == 0 {
		return "no calls"
	}
	took := make([]time.Duration, len(calls))
	for i, c := range calls {
		took[i] = c.took
	}
	slices.Sort(took)
	at := func(part float64) time.Duration {
		return took[min(int(part*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d calls, p50 %s, p99 %s, p99.9 %s, max %s", len(took), at(0.5), at(0.99), at(0.999), at(1))
}
