package ratelimit

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/pause"
)

const (
	beatEvery = 50 * time.Millisecond
	// stallAfter is how long a process that was stopped stood still at least: half of the time for which Envoy waits.
	stallAfter = 250 * time.Millisecond
	// catchUp is the time in which a process that goes on has read all that came meanwhile, doubtFor as many beats at least.
	catchUp  = 100 * time.Millisecond
	doubtFor = int32(catchUp/beatEvery) + 1
)

// stalls knows whether the process has just stood still: stopped by a debugger, with its container frozen or its machine
// suspended. What came meanwhile is read in its order after that, and so a call is there some time before the word that its
// caller has given up. It is safe for concurrent use.
type stalls struct {
	beat  atomic.Int64 // the last sign of life, as a Unix time in nanoseconds; 0: nobody watches
	doubt atomic.Int32 // for how many more beats callers may be gone without a word
}

// Watch lets the limiter notice that its process stood still, until ctx ends: so that it charges nobody who has gone away
// meanwhile.
func (l *Limiter) Watch(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	defer l.stalls.forget()
	for {
		l.stalls.tick(l.clock())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tick is a sign of life. The doubt is there before the sign, so that nobody sees the one without the other.
func (s *stalls) tick(now time.Time) {
	if s.stoodStill(now) {
		s.doubt.Store(doubtFor)
	} else if left := s.doubt.Load(); left > 0 {
		s.doubt.Store(left - 1)
	}
	s.beat.Store(now.UnixNano())
}

// forget ends the watch.
func (s *stalls) forget() {
	s.beat.Store(0)
	s.doubt.Store(0)
}

func (s *stalls) stoodStill(now time.Time) bool {
	beat := s.beat.Load()
	return beat != 0 && now.UnixNano()-beat > int64(stallAfter)
}

// justWokeUp says that callers may be gone without a word. The time of a call can be before that of the beat which noticed, by as
// much as the process stood still, and the clock can be set: so the doubt goes by beats and not by the time.
func (s *stalls) justWokeUp(now time.Time) bool { return s.stoodStill(now) || s.doubt.Load() > 0 }

// stoodStillSince says that the process has stood still since it took up a call, as far as it can tell by how long that took.
func (s *stalls) stoodStillSince(then, now time.Time) bool {
	return s.beat.Load() != 0 && now.Sub(then) > stallAfter
}

// wait lets the word of a caller that has gone away arrive.
func (*stalls) wait(ctx context.Context) {
	pause.For(ctx, catchUp)
}
