package ratelimit

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/policy"
)

// TestARehearsalKeepsNobodyWhoHasEnded plays requests of which some start at once, some wait and some give up. What it keeps must
// not grow with how many there are in the time in which a sign of life is missed.
func TestARehearsalKeepsNobodyWhoHasEnded(t *testing.T) {
	t.Parallel()
	refused := 0
	r := newRehearsals(func(*actor, time.Time) { refused++ }).of(&policy.Capacity{
		Group: "held", Max: 2, Queue: &policy.Queue{MaxLength: 3, MaxBodyBytes: 100, MaxWait: time.Second, Age: time.Second},
	})
	now, sent := lineStart, uint64(0)
	for range 1000 {
		var leases []*actor
		for range 8 {
			a := &actor{waiter: waiter{holder: "one", lane: lane{priority: 1}, arrived: now}}
			sent++
			binary.BigEndian.PutUint64(a.lease[:], sent)
			r.arrive(a, time.Second, now)
			leases = append(leases, a)
		}
		now = now.Add(2 * time.Millisecond)
		for _, a := range leases {
			r.end(a.lease, now)
		}
		now = now.Add(10 * time.Millisecond)
		r.alive(leases[0].lease, now)
		if len(r.events) != 0 || len(r.actors) != 0 || r.running != 0 || r.line.n != 0 {
			t.Fatalf("%d events of %d requests are kept, %d run and %d wait, want none", len(r.events), len(r.actors), r.running, r.line.n)
		}
	}
	if want := 3000; refused != want {
		t.Errorf("%d are recorded, want %d: two run and three wait", refused, want)
	}
}
