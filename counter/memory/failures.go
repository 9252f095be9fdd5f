package memory

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// What Failures keeps at most. Anybody can fail from many addresses of IPv6.
const (
	maxSubjects = 100_000
	maxTimes    = 4 << 20 // of failures, 8 bytes each
)

// Failures counts failures in memory, and forgets them with the process. Use NewFailures to make one.
type Failures struct {
	// latest is the end of the block that ends last, in nanoseconds since 1970. Lifting one does not lower it.
	latest    atomic.Int64
	forgotten atomic.Int64

	mu       sync.RWMutex
	subjects map[counter.Subject]*offender
	recent   offender // the list of all, from the one that failed last to the one that did so first; itself none
	times    int      // of all
}

// An offender is a subject with recent failures, or one that is blocked.
type offender struct {
	subject    counter.Subject
	times      []int64 // of failures within the window, in nanoseconds since 1970, ascending
	window     int64
	block      counter.Block // the zero value: none
	prev, next *offender
}

var _ counter.Failures = (*Failures)(nil)

// NewFailures returns one that has counted nothing.
func NewFailures() *Failures {
	f := &Failures{subjects: map[counter.Subject]*offender{}}
	f.recent.prev, f.recent.next = &f.recent, &f.recent
	return f
}

// Any implements [counter.Failures].
func (f *Failures) Any(now time.Time) bool { return now.UnixNano() < f.latest.Load() }

// BlockOf implements [counter.Failures]. It does not fail.
func (f *Failures) BlockOf(_ context.Context, now time.Time, s counter.Subject) (counter.Block, bool, error) {
	if !f.Any(now) {
		return counter.Block{}, false, nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if o := f.subjects[s]; o != nil && o.blocked(now) {
		return o.block, true, nil
	}
	return counter.Block{}, false, nil
}

// Fail implements [counter.Failures]. It does not fail.
func (f *Failures) Fail(_ context.Context, now time.Time, s counter.Subject, r counter.Rule) (counter.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.subjects[s]
	switch {
	case o == nil:
		o = &offender{subject: s}
		f.subjects[s] = o
	case o.blocked(now):
		return counter.Ignored, nil
	default:
		o.unlink()
	}
	f.link(o)
	f.times -= len(o.times)
	outcome := o.fail(now, r)
	f.times += len(o.times)
	if outcome == counter.Blocked {
		f.latest.Store(max(f.latest.Load(), o.block.Until.UnixNano()))
	}
	for len(f.subjects) > maxSubjects || f.times > maxTimes {
		f.forget(f.recent.prev)
		f.forgotten.Add(1)
	}
	return outcome, nil
}

func (o *offender) blocked(now time.Time) bool { return now.Before(o.block.Until) }

// fail takes in a failure of one who is not blocked.
func (o *offender) fail(now time.Time, r counter.Rule) counter.Outcome {
	at := now.UnixNano()
	if n := len(o.times); n > 0 {
		at = max(at, o.times[n-1])
	}
	o.window, o.block = int64(r.Window), counter.Block{}
	over := 0
	for over < len(o.times) && o.times[over] < at-o.window {
		over++
	}
	o.times = append(slices.Delete(o.times, 0, over), at)
	if len(o.times) <= r.Max {
		return counter.Counted
	}
	since := time.Unix(0, at).UTC()
	o.block = counter.Block{Subject: o.subject, Since: since, Until: since.Add(r.Block), Failures: len(o.times)}
	o.times = nil
	return counter.Blocked
}

// Blocks implements [counter.Failures]. It does not fail.
func (f *Failures) Blocks(_ context.Context, now time.Time) ([]counter.Block, error) {
	if !f.Any(now) {
		return nil, nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	var all []counter.Block
	for _, o := range f.subjects {
		if o.blocked(now) {
			all = append(all, o.block)
		}
	}
	return all, nil
}

// Lift implements [counter.Failures]. It does not fail.
func (f *Failures) Lift(_ context.Context, now time.Time, s counter.Subject) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.subjects[s]
	if o == nil || !o.blocked(now) {
		return false, nil
	}
	f.forget(o)
	return true, nil
}

// Forgotten is how many subjects were forgotten before their time, because there were too many.
func (f *Failures) Forgotten() int64 { return f.forgotten.Load() }

// Len returns the number of subjects held in memory.
func (f *Failures) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.subjects)
}

// Sweep forgets those whose block is over, or whose failures no window reaches any more. Call it about once a minute. It
// holds up all other calls for as long as it takes to look at all subjects: 10 ms or so for the most that there can be.
func (f *Failures) Sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	horizon := now.Add(-grace)
	for _, o := range f.subjects {
		n := len(o.times)
		if o.block.Until.Before(horizon) && (n == 0 || o.times[n-1]+o.window < horizon.UnixNano()) {
			f.forget(o)
		}
	}
}

func (f *Failures) forget(o *offender) {
	o.unlink()
	delete(f.subjects, o.subject)
	f.times -= len(o.times)
}

func (f *Failures) link(o *offender) {
	o.prev, o.next = &f.recent, f.recent.next
	o.prev.next, o.next.prev = o, o
}

func (o *offender) unlink() { o.prev.next, o.next.prev = o.next, o.prev }
