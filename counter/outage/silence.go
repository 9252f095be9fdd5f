package outage

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

const (
	// ticks are in a deadline. They are counted, rather than time: a process that stood still has not listened.
	ticks    = 4
	starving = 10 // deadlines are waited for at most by a process that is short of CPU
	// An epoch is how many deadlines one call is waited for while others are answered, and twice as many at most.
	epoch = 5
)

var (
	errSilent = errors.New("it did not answer in time")
	errSlow   = errors.New("it did not answer one of the calls in time")
)

// A state is either of a store that answers, or of one that is out.
type state struct {
	calls  context.Context //nolint:containedctx // That of all calls, which end together.
	cancel context.CancelFunc
	out    *standIn // nil: the store answers

	epoch   atomic.Uint32
	pending [2]atomic.Int64 // calls, by whether they began in an even epoch or an odd one
	heard   atomic.Bool     // an answer since the last look; a flag, because most calls need not write it
}

func (s *Store) sound() *state {
	calls, cancel := context.WithCancel(s.base)
	return &state{calls: calls, cancel: cancel}
}

// begin notes that a call waits, in what end must be given.
func (st *state) begin() (waits *atomic.Int64) {
	waits = &st.pending[st.epoch.Load()%2]
	waits.Add(1)
	return waits
}

// end notes that the call does not wait any more, and reports whether it is over: the store has answered, be it that it cannot read what it
// has, or it was not asked, as there was nothing to ask for. That is no sign of the store.
func (st *state) end(waits *atomic.Int64, asked bool, err error) (over bool) {
	waits.Add(-1)
	if err != nil && !errors.Is(err, counter.ErrUnreadable) {
		return false
	}
	if asked {
		st.hear()
	}
	return true
}

func (st *state) hear() {
	if !st.heard.Load() {
		st.heard.Store(true)
	}
}

func (st *state) waits() bool { return st.pending[0].Load() > 0 || st.pending[1].Load() > 0 }

// turn begins an epoch, and reports whether a call has waited for the whole of the last one.
func (st *state) turn() (late bool) {
	next := st.epoch.Load() + 1
	if st.pending[next%2].Load() > 0 {
		return true
	}
	st.epoch.Store(next)
	return false
}

// silence is how long calls have waited and none was answered.
type silence struct {
	every  time.Duration // between two looks
	ticks  int
	looks  int // in time, since an epoch began
	waited time.Duration
	looked time.Time
}

func (w *silence) broken(now time.Time) { w.ticks, w.waited, w.looked = 0, 0, now }

// lasts reports whether it is too long. A look that comes late counts for nothing, up to a point: the process is short of CPU, and
// may not have got around to hear an answer. However late it comes, it is waited for no more than a deadline with it: the process may
// have stood still.
func (w *silence) lasts(now time.Time, waits, heard bool) bool {
	apart := now.Sub(w.looked)
	late := apart > 2*w.every
	if !late {
		w.looks++
	}
	if w.looked = now; !waits || heard {
		w.broken(now)
		return false
	}
	if !late {
		w.ticks++
	}
	w.waited += min(apart, ticks*w.every)
	return w.ticks > ticks || w.waited > starving*ticks*w.every
}

// turns reports whether it is time for another epoch.
func (w *silence) turns() bool {
	if w.looks < epoch*ticks {
		return false
	}
	w.looks = 0
	return true
}
