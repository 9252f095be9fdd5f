package replicas_test

import (
	"testing"
	"time"
)

const (
	wide  = "wide"  // a holder whose limits are never reached
	tight = "tight" // one whose limit is reached in an outage
	held  = "held"  // one with two streams that go on all the time

	tightMost = 200
	outFor    = 2 * time.Second
	fresh     = 200 * time.Millisecond // what a replica saw of a limit
	calm      = 300 * time.Millisecond
	slowest   = outFor // an answer, beside what the machine stood still; the truth is printed
)

var troubled = joined(gateway,
	tier(wide, "{rates: [{metric: Requests, per: Day, max: 1000000}, {metric: Tokens, per: Day, max: 1000000000}], concurrency: {max: 10000}}"), holder(wide, wide),
	tier(tight, rate(tightMost)), holder(tight, tight),
	tier(held, "{concurrency: {max: 5}}"), holder(held, held))

// A trial is a store that goes out under load, and comes back.
type trial struct {
	*installation

	load    *load
	streams []string // leases of held

	began, out, ended, back time.Time
	apart                   bool // replicas may find the store again at different times
}

// try starts two replicas, and a steady load on them.
func try(t *testing.T, flags ...string) *trial {
	t.Helper()
	x := &trial{installation: install(t, 2, troubled, flags...)}
	clearOf(t, 24*time.Hour)
	x.streams = x.offer(t, 2, same(request{holder: held, model: general}))
	x.load = startLoad(t, x.any, wide, tight, wide)
	eventually(t, soon, "the load is steady, and the store answers", func() bool {
		return x.load.admitted(tight) >= tightMost/4 && x.outOf(t) == 0
	})
	x.slots(t, "before", 2)
	return x
}

func (x *trial) slots(t *testing.T, when string, want int64) {
	t.Helper()
	x.slotsOf(t, held, when, want)
}

func (x *trial) slotsOf(t *testing.T, name, when string, want int64) {
	t.Helper()
	used := x.usedSoon(t, name, func(used map[string]int64) bool { return used["Key/ConcurrentRequests"] == want })
	if n := used["Key/ConcurrentRequests"]; n != want {
		t.Errorf("%d slots of %s are held %s, want %d", n, name, when, want)
	}
}

// outages are how many there were, of all replicas together.
func (x *trial) outages(t *testing.T) int {
	t.Helper()
	return x.sum(t, "tierkeeper_store_outages_total")
}

// outOf is how many replicas count for themselves.
func (x *trial) outOf(t *testing.T) int {
	t.Helper()
	return x.sum(t, "tierkeeper_store_out")
}

// suffer makes trouble, and ends it once all replicas have noticed and were answering without the store for a while.
func (x *trial) suffer(t *testing.T, begin, end func()) {
	t.Helper()
	x.began = time.Now()
	begin()
	eventually(t, soon, "each replica has noticed", func() bool { return x.outOf(t) == len(x.replicas) })
	x.out = time.Now()
	pass(t, outFor)
	end()
	x.ended = time.Now()
	x.recover(t)
}

// endure makes trouble that somebody else ends, or nobody notices.
func (x *trial) endure(t *testing.T, trouble func()) {
	t.Helper()
	x.began = time.Now()
	trouble()
	x.out = time.Now()
	x.ended = x.out
	x.recover(t)
}

// recover waits until the store is asked again, and all is as before.
func (x *trial) recover(t *testing.T) {
	t.Helper()
	eventually(t, soon, "the store is asked again by all", func() bool { return x.outOf(t) == 0 })
	x.back = time.Now()
	pass(t, time.Second)
	x.load.stop()
	x.rest(t)
}

// rest waits until the store has been asked by all for a while: a machine that is busy with others makes more outages.
func (x *trial) rest(t *testing.T) {
	t.Helper()
	var since time.Time
	eventually(t, soon, "the store is asked by all, and knows everything", func() bool {
		if x.outOf(t) > 0 {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) > calm
	})
}

// used is what the store has, not a replica that is without it at the moment.
func (x *trial) used(t *testing.T, name string) (used map[string]int64) {
	t.Helper()
	eventually(t, soon, "the store tells what is used", func() bool {
		before := x.outages(t)
		x.rest(t)
		used = x.installation.used(t, name)
		return x.outages(t) == before
	})
	return used
}

// usedSoon is what the store has once that is as it should be, or else after a while: what it was not told at once it is told a second
// later, and sooner than slots expire that nobody frees.
func (x *trial) usedSoon(t *testing.T, name string, is func(used map[string]int64) bool) map[string]int64 {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; pass(t, calm) {
		if used := x.used(t, name); is(used) || time.Now().After(end) {
			return used
		}
	}
}

// check demands what holds after every trouble, and prints the rest.
func (x *trial) check(t *testing.T, forgets bool) {
	t.Helper()
	for _, c := range x.load.those(func(c call) bool { return c.err != nil || c.took > slowest+x.load.late && c.at.After(x.began) }) {
		t.Errorf("a call %s after the trouble began took %s: %v", c.at.Sub(x.began), c.took, c.err)
	}
	if len(x.load.settles) > 0 {
		t.Errorf("%d settlements failed, the first by: %v", len(x.load.settles), x.load.settles[0])
	}
	outages, lost := x.outages(t), x.sum(t, "tierkeeper_store_lost_settlements_total")
	t.Logf("%s:\n  before        %s\n  until noticed %s\n  from then on  %s\n  %d outages of %d replicas, noticed by all within %s; asked again by all %s after the trouble; %d settlements lost", t.Name(),
		latencies(x.load.those(func(c call) bool { return c.at.Before(x.began) })),
		latencies(x.load.those(func(c call) bool { return c.at.After(x.began.Add(-fresh)) && c.at.Before(x.out) })),
		latencies(x.load.those(func(c call) bool { return c.at.After(x.out) })),
		outages, len(x.replicas), x.out.Sub(x.began).Round(time.Millisecond), x.back.Sub(x.ended).Round(time.Millisecond), lost)
	x.checkCounts(t, forgets, outages)
	x.checkSlots(t, forgets)
}

// checkCounts demands that what was admitted is counted, and that not much more is.
func (x *trial) checkCounts(t *testing.T, forgets bool, outages int) {
	t.Helper()
	admitted := map[string]int64{wide: int64(x.load.admitted(wide)), tight: int64(x.load.admitted(tight))}
	// Of a store that has forgotten everything, or a little, that is restored which was seen of it.
	forgotten := int64(0)
	if forgets {
		forgotten = int64(len(x.load.those(func(c call) bool {
			return c.holder == wide && c.admitted && c.ended().After(x.began.Add(-fresh)) && c.at.Before(x.out)
		})))
	}
	least := admitted[wide] - forgotten
	enough := func(used map[string]int64) bool {
		return used["Key/Requests/Day"] >= least && used["Key/Tokens/Day"] >= costs*least
	}
	counted := x.usedSoon(t, wide, enough)
	t.Logf("%s:\n  admitted %d requests of %d tokens, counted %v; of a limit of %d admitted %d, counted %d", t.Name(),
		admitted[wide], costs, counted, tightMost, admitted[tight], x.used(t, tight)["Key/Requests/Day"])
	if !enough(counted) {
		t.Errorf("%d requests of %d tokens were admitted, and counted are %v", admitted[wide], costs, counted)
	}
	// What each replica saw last may be a little older than the outage, and one that is out alone admits its part beside the others.
	unseen := len(x.load.those(func(c call) bool {
		return c.holder == tight && c.admitted && c.ended().After(x.began.Add(-fresh)) && c.at.Before(x.out)
	}))
	if x.apart {
		unseen += tightMost / len(x.replicas)
	}
	if most := int64(tightMost + len(x.replicas) - 1 + unseen); admitted[tight] > most && outages == len(x.replicas) {
		t.Errorf("%d were admitted, want at most %d", admitted[tight], most)
	}
}

// checkSlots demands that slots are held by who is there, and by nobody else. A store that forgets learns of them by the next
// sign of life.
func (x *trial) checkSlots(t *testing.T, forgets bool) {
	t.Helper()
	if forgets {
		t.Logf("%s:\n  held right after: %v of 2", t.Name(), x.used(t, held))
	} else {
		x.slots(t, "after", 2)
	}
	x.any().renew(t, x.streams...)
	x.slots(t, "after a sign of life", 2)
	x.settleAll(t, x.streams, func(int) int { return 0 })
	x.slots(t, "in the end", 0)
	x.slotsOf(t, wide, "when all requests have ended", 0)
}
