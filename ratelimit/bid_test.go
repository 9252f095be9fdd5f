package ratelimit_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const oneSlot = "{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 300}}"

// another replica shares the store.
func (s *service) another() *service {
	other := &service{clock: s.clock, store: s.store, table: s.table}
	other.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(s.clock.now))
	other.SetTable(s.table)
	return other
}

// TestReplicasHaveTheirTurnsHoweverLongRequestsTake has the slot freed where others wait each time.
func TestReplicasHaveTheirTurnsHoweverLongRequestsTake(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{10 * time.Millisecond, 10 * time.Second} {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := open(t, waiting(oneSlot, "high1", "high2"))
				replicas := []*service{h.service, h.another()}
				served, freed, idle := [2]int{}, h.clock.now(), time.Duration(0)
				for i := range 6 {
					side := i % 2
					h.all.Go(func() {
						for goesOn := true; goesOn; {
							d := replicas[side].pass(t, chat(fmt.Sprint("sk-high", side+1)))
							h.mu.Lock()
							served[side]++
							idle = max(idle, h.clock.now().Sub(freed))
							goesOn = served[0]+served[1] < 400
							h.mu.Unlock()
							pause(length)
							h.mu.Lock()
							freed = h.clock.now()
							h.mu.Unlock()
							replicas[side].end(t, d, descriptor.Settle{Code: 200})
						}
					})
				}
				h.all.Wait()
				if min(served[0], served[1]) < 100 {
					t.Errorf("%d were served at one replica and %d at the other, want a quarter of them at least", served[0], served[1])
				}
				if idle > 100*time.Millisecond {
					t.Errorf("while requests waited the slot was free for %v, want at most 100 ms", idle)
				}
				pause(lookedAgain)
			})
		})
	}
}

func TestWhoMayNotWaitDoesNotOvertakeWhoWaitsAtAnotherReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting(oneSlot, "high1", "at-once1"))
		other := h.another()
		first := other.pass(t, chat("sk-high1"))
		h.visit(t.Context(), chat("sk-high1"), 0)
		synctest.Wait()
		other.end(t, first, descriptor.Settle{Code: 200})
		other.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable)
		h.all.Wait()
		pause(lookedAgain)
		other.end(t, other.pass(t, chat("sk-at-once1")), descriptor.Settle{Code: 200})
	})
}

// A replica that saw others wait sees that they do no more, though its clock was set back meanwhile.
func TestAClockThatIsSetBackKeepsNobodyOutOfAFreeModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting(oneSlot, "high1", "at-once1"))
		other := h.another()
		var ahead atomic.Int64
		ahead.Store(int64(time.Hour))
		for _, s := range []*service{h.service, other} {
			s.Limiter = ratelimit.New(h.store, secret, ratelimit.WithClock(func() time.Time { return h.clock.now().Add(time.Duration(ahead.Load())) }))
			s.SetTable(h.table)
		}
		first := other.pass(t, chat("sk-high1"))
		h.visit(t.Context(), chat("sk-high1"), 0)
		synctest.Wait()
		other.end(t, first, descriptor.Settle{Code: 200})
		other.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable)
		h.all.Wait()
		ahead.Store(0)
		pause(lookedAgain)
		other.end(t, other.pass(t, chat("sk-at-once1")), descriptor.Settle{Code: 200})
	})
}

// A replica that has died can have told others that somebody of a higher rank waits there.
func TestWhoWaitedAtAReplicaThatDiedHoldsUpOthersForSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting(oneSlot, "low1"))
		first := h.pass(t, chat("sk-low1"))
		h.visit(t.Context(), chat("sk-low1"), 0)
		synctest.Wait()
		died := h.clock.now()
		if err := h.store.Renew(t.Context(), died, [8]byte{1}, ratelimit.BidKeys("gpt")[4:5], died.Add(ratelimit.BidExpiry)); err != nil {
			t.Fatal(err)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		h.all.Wait()
		if wait := h.last().served.Sub(died); wait < ratelimit.BidExpiry || wait > ratelimit.BidExpiry+100*time.Millisecond {
			t.Errorf("it was served after %v, want within 100 ms of %v", wait, ratelimit.BidExpiry)
		}
		pause(lookedAgain)
	})
}
