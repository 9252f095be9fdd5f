package memory

import (
	"math"
	"slices"

	"github.com/tierkeeper/tierkeeper/counter"
)

// slots are the leases that hold a counter of the kind InUse. Times are in nanoseconds since 1970.
type slots struct {
	clock int64    // the latest time of a change; it never falls
	first int64    // none of held expires earlier
	held  []event  // at: expiry; in no order, some may have expired
	few   [2]event // where held begins, so that most counters need no other memory

	// The leases that were settled, in two generations, so that none has to be taken out by itself: what was settled
	// within counter.Remember is in one of them. at: when it was settled.
	settled, settledBefore []event
	turned                 int64 // when settled began
}

// An event is a lease at a time.
type event struct {
	lease counter.LeaseID
	at    int64
}

// inUse counts the slots that are held at now. It changes nothing.
func (s *slots) inUse(now int64) int64 {
	now = max(now, s.clock)
	if now < s.first {
		return int64(len(s.held))
	}
	n := int64(0)
	for _, e := range s.held {
		if now < e.at {
			n++
		}
	}
	return n
}

// advance moves the clock to now and drops what has expired.
func (s *slots) advance(now int64) {
	s.clock = max(s.clock, now)
	if s.clock < s.first {
		return
	}
	s.held = slices.DeleteFunc(s.held, func(e event) bool { return e.at <= s.clock })
	s.first = math.MaxInt64
	for _, e := range s.held {
		s.first = min(s.first, e.at)
	}
}

func (s *slots) take(now int64, lease counter.LeaseID, expiry int64) {
	s.advance(now)
	expiry = s.shifted(now, expiry)
	s.held = append(s.held, event{lease, expiry})
	s.first = min(s.first, expiry)
}

// shifted is an expiry that was reckoned from now, reckoned from the time of the counter, which is not before now.
func (s *slots) shifted(now, expiry int64) int64 { return expiry + (s.clock - now) }

func (s *slots) free(now int64, lease counter.LeaseID) {
	s.advance(now)
	if i := index(s.held, lease); i >= 0 {
		last := len(s.held) - 1
		s.held[i] = s.held[last]
		s.held = s.held[:last]
	}
	if s.clock-s.turned >= int64(counter.Remember) {
		s.settled, s.settledBefore = s.settledBefore[:0], s.settled
		s.turned = s.clock
	}
	s.settled = append(s.settled, event{lease, s.clock})
}

func (s *slots) renew(now int64, lease counter.LeaseID, expiry int64) {
	if s.wasSettled(max(now, s.clock), lease) {
		return
	}
	if i := index(s.held, lease); i >= 0 {
		s.clock = max(s.clock, now)
		s.held[i].at = max(s.held[i].at, s.shifted(now, expiry))
		s.advance(now) // Afterwards, or it could drop the lease that is to go on.
		return
	}
	s.take(now, lease, expiry)
}

func (s *slots) wasSettled(now int64, lease counter.LeaseID) bool {
	recently := func(e event) bool { return e.lease == lease && now-e.at < int64(counter.Remember) }
	return slices.ContainsFunc(s.settled, recently) || slices.ContainsFunc(s.settledBefore, recently)
}

// over reports whether every slot has expired, and every settlement is forgotten, at horizon.
func (s *slots) over(horizon int64) bool {
	return s.inUse(horizon) == 0 && horizon-s.clock >= int64(counter.Remember)
}

func index(events []event, lease counter.LeaseID) int {
	return slices.IndexFunc(events, func(e event) bool { return e.lease == lease })
}
