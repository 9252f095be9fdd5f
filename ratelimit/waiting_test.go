package ratelimit_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// A client can go away in the very moment in which its request gets a slot: before it is told, or at the same time. Either
// way the slot is free at once.
func TestWhoGoesAwayWhileASlotIsTakenLeavesItFree(t *testing.T) {
	t.Parallel()
	for name, hears := range map[string]func(){
		"before it is told":      func() { pause(time.Millisecond) },
		"as it is being told it": func() {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 50 { // Which of two that come at once is heard first is left to chance.
				synctest.Test(t, func(t *testing.T) {
					var goes atomic.Pointer[context.CancelFunc]
					s, _ := serveFaulty(t, waiting("{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}", "high1"), func(_ int64, method string) fault {
						if cancel := goes.Load(); cancel != nil && method == "Acquire" {
							goes.Store(nil)
							(*cancel)()
							hears()
						}
						return sound
					})
					first := s.pass(t, chat("sk-high1"))
					ctx, cancel := context.WithCancel(t.Context())
					gone := make(chan error, 1)
					go func() {
						_, err := s.Reserve(ctx, chat("sk-high1"))
						gone <- err
					}()
					synctest.Wait()
					pause(lookedAgain) // so that the next to look is woken by the release
					goes.Store(&cancel)
					s.end(t, first, descriptor.Settle{Code: 200})
					if err := <-gone; !errors.Is(err, context.Canceled) {
						t.Fatalf("who went away got %v", err)
					}
					pause(10 * time.Millisecond)
					want := map[string]int64{"ModelShared Requests per Day": 1, "ModelShared ConcurrentRequests": 0}
					if diff := cmp.Diff(want, s.used(t, chat("sk-high1"))); diff != "" {
						t.Fatalf("what it left behind (-want +got):\n%s", diff)
					}
					pause(lookedAgain)
				})
			}
		})
	}
}

// lookedAgain is after a queue has looked for slots of which nobody told it, and gone to rest if nobody waits.
const lookedAgain = 75 * time.Millisecond

// Slots are there that are given out at a pace, and somebody comes who needs not wait for one.
func TestNobodyOvertakesThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 999, maxWaitSeconds: 60}}", "low1", "low2", "at-once1"))
		h.pass(t, chat("sk-low1"))
		for range 200 {
			h.visit(t.Context(), chat("sk-low1"), 0)
		}
		synctest.Wait()
		h.apply(t, waiting("{concurrentRequests: 500, queue: {maxLength: 999, maxWaitSeconds: 60}}", "low1", "low2", "at-once1"))
		synctest.Wait()
		h.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable)
		for range 3 {
			h.visit(t.Context(), chat("sk-low2"), 0)
		}
		if got := len(h.served()); got >= 200 {
			t.Fatalf("%d are served at once, which proves nothing", got)
		}
		h.all.Wait()
		for i, v := range h.visits[:50] {
			if v.key == "sk-low2" {
				t.Errorf("who came last was served as number %d of 203", i)
			}
		}
		pause(lookedAgain)
	})
}

// Retry-After is as long as all who wait will take, by how fast the last ones went on, but at most a minute.
func TestRetryAfterIsWhatTheLastReleasesMakeLikely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 99, maxWaitSeconds: 300}}", "high1", "at-once1"))
		tells := func(want string) {
			t.Helper()
			if got := headersOf(t, h.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable))["Retry-After"]; got != want {
				t.Errorf("Retry-After is %s, want %s", got, want)
			}
		}
		for range 31 {
			h.visit(t.Context(), chat("sk-high1"), 4*time.Second)
		}
		synctest.Wait()
		tells("2") // Nothing is known yet.
		pause(80*time.Second + 1)
		tells("44") // for ten who wait, and one more
		h.all.Wait()
		pause(time.Hour) // in which nobody waits
		h.visit(t.Context(), chat("sk-high1"), 4*time.Second)
		for range 20 {
			h.visit(t.Context(), chat("sk-high1"), 4*time.Second)
		}
		synctest.Wait()
		tells("60")
		pause(60*time.Second + 1)
		tells("24")
		h.all.Wait()
		pause(lookedAgain)
	})
}

// Who went on without a slot because there was no capacity any more takes none of it when it is there again.
func TestWhoWentOnWithoutASlotHoldsNone(t *testing.T) {
	t.Parallel()
	const capacity = "{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}"
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting(capacity, "high1"))
		first := h.pass(t, chat("sk-high1"))
		second := make(chan ratelimit.Decision, 1)
		go func() { second <- h.pass(t, chat("sk-high1")) }()
		synctest.Wait()
		h.apply(t, waiting("", "high1"))
		free := <-second
		h.apply(t, waiting(capacity, "high1"))
		pause(10 * time.Second)
		h.renew(t, first)
		h.renew(t, free)
		if used := h.used(t, chat("sk-high1"))["ModelShared ConcurrentRequests"]; used != 1 {
			t.Errorf("%d slots are held, want that of the first alone", used)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		h.end(t, free, descriptor.Settle{Code: 200})
	})
}

// What an answer tells is as it is when the wait ends.
func TestAnAnswerAfterAWaitTellsWhatIsLeftThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 100}]}, queue: {mode: Wait, maxWaitSeconds: 60}}}
models: {gpt: {models: ["gpt-*"], capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}}}
`)
		first := h.pass(t, chat("sk-alice"))
		h.visit(t.Context(), chat("sk-alice"), 0)
		synctest.Wait()
		for range 5 {
			h.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model = "another" }))
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		h.all.Wait()
		if got := h.last().headers["x-ratelimit-remaining-requests"]; got != "93" {
			t.Errorf("after 7 of 100 requests %s remain", got)
		}
		pause(lookedAgain)
	})
}

// So it is when the wait was in vain: the window in which it began may be over, and what it was charged is given back.
func TestARefusalAfterAWaitTellsWhatIsLeftThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Minute, max: 100}]}, queue: {mode: Wait, maxWaitSeconds: 20}}}
models: {gpt: {models: ["gpt-*"], capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 20}}}}
`)
		pause(50 * time.Second)
		first := h.pass(t, chat("sk-alice"))
		h.visit(t.Context(), chat("sk-alice"), 0)
		h.all.Wait()
		want := map[string]string{"x-ratelimit-remaining-requests": "100", "x-ratelimit-reset-requests": strconv.FormatInt(h.clock.now().Add(50*time.Second).Unix(), 10)}
		if diff := cmp.Diff(want, only(h.last().headers, "x-ratelimit-remaining-r", "x-ratelimit-reset-r")); diff != "" {
			t.Errorf("10 seconds after a minute began (-want +got):\n%s", diff)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		pause(lookedAgain)
	})
}

// Signs of life that came while the process stood still are read after it goes on.
func TestASlotThatExpiredWhileTheProcessStoodStillIsNotGivenOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stood atomic.Int64
		h := open(t, waiting(oneSlot, "high1"))
		h.Limiter = ratelimit.New(h.store, secret, ratelimit.WithClock(func() time.Time { return h.clock.now().Add(time.Duration(stood.Load())) }))
		h.SetTable(h.table)
		watching, stop := context.WithCancel(t.Context())
		go h.Watch(watching)
		synctest.Wait()
		first := h.pass(t, chat("sk-high1"))
		h.visit(t.Context(), chat("sk-high1"), 0)
		synctest.Wait()
		stood.Store(int64(ratelimit.SlotExpiry))
		pause(60 * time.Millisecond)
		h.renew(t, first)
		pause(5 * time.Second)
		if n := len(h.served()); n != 0 {
			t.Errorf("%d were let go that waited for a slot that a request under way has", n)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		h.all.Wait()
		stop()
		pause(lookedAgain)
	})
}

// A process that stood still while a request waited may hear late that its caller has gone.
func TestAWaiterThatWentWhileTheProcessStoodStillIsNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stood atomic.Int64
		s := serveAt(t, nil, waiting("{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}", "high1"))
		now := func() time.Time { return time.Now().Add(time.Duration(stood.Load())) } //nolint:forbidigo // It is the bubble's clock.
		s.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(now))
		s.SetTable(s.table)
		watching, stop := context.WithCancel(t.Context())
		go s.Watch(watching)
		synctest.Wait()
		first := s.pass(t, chat("sk-high1"))
		ctx, goes := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := s.Reserve(ctx, chat("sk-high1"))
			gone <- err
		}()
		synctest.Wait()
		stood.Store(int64(time.Second))
		s.end(t, first, descriptor.Settle{Code: 200})
		pause(20 * time.Millisecond)
		goes()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller of whom it is heard late that he has gone got %v", err)
		}
		want := map[string]int64{"ModelShared Requests per Day": 1, "ModelShared ConcurrentRequests": 0}
		if diff := cmp.Diff(want, s.used(t, chat("sk-high1"))); diff != "" {
			t.Errorf("what is charged (-want +got):\n%s", diff)
		}
		stop()
		pause(lookedAgain)
	})
}
