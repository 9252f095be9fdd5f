package ratelimit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// waiting are manifests with one model, whose capacity is given, and keys of three plans that may wait.
func waiting(capacity string, quotas ...string) string {
	text := `
tiers:
  high: {priority: High, queue: {mode: Wait, maxWaitSeconds: 300}}
  low: {priority: Low, queue: {mode: Wait, maxWaitSeconds: 300}}
  at-once: {priority: Critical}
  brief: {queue: {mode: Wait, maxWaitSeconds: 7}}
models:
  gpt: {models: ["gpt-*"], shared: {rates: [{metric: Requests, per: Day, max: 100000}]}`
	if capacity != "" {
		text += ", capacity: " + capacity
	}
	text += "}\nquotas:\n"
	for _, q := range quotas {
		text += fmt.Sprintf("  team/%s: {tierRef: {name: %s}}\n", q, q[:len(q)-1])
	}
	return text
}

// A visit is a request and what became of it.
type visit struct {
	key             string
	arrived, served time.Time
	status          int
	headers         map[string]string
	code            string
}

// A hall runs visits in a bubble, and notes them in the order in which they were served.
type hall struct {
	*service

	t      *testing.T
	mu     sync.Mutex
	visits []visit
	all    sync.WaitGroup
}

func open(t *testing.T, text string) *hall {
	t.Helper()
	return &hall{service: serveAt(t, nil, text), t: t}
}

// visit starts a request that takes so long once it is served.
func (h *hall) visit(ctx context.Context, r *descriptor.Reserve, length time.Duration) {
	v := visit{key: keyIn(r), arrived: h.clock.now()}
	h.all.Go(func() {
		d, err := h.Reserve(ctx, r)
		v.served, v.status = h.clock.now(), d.Status
		if err != nil {
			v.status = -1
		} else {
			v.headers = headersOf(h.t, d)
		}
		if d.Status != 0 {
			var body struct{ Error struct{ Code string } }
			if err := json.Unmarshal([]byte(d.Body), &body); err != nil {
				h.t.Errorf("the body of a refusal: %v", err)
			}
			v.code = body.Error.Code
		}
		h.mu.Lock()
		h.visits = append(h.visits, v)
		h.mu.Unlock()
		if v.status == 0 {
			pause(length)
			h.end(h.t, d, descriptor.Settle{Code: 200})
		}
	})
}

// served lists the keys of those that were let in, in their order.
func (h *hall) served() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	var keys []string
	for _, v := range h.visits {
		if v.status == 0 {
			keys = append(keys, v.key)
		}
	}
	return keys
}

// last is the visit that was noted last.
func (h *hall) last() visit {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.visits[len(h.visits)-1]
}

const fourSlots = "{concurrentRequests: 4, queue: {maxLength: 5000, maxWaitSeconds: 120}}"

// TestPrioritiesAndTurnsHold is the rush of three keys of each priority. One sends ten times as much as its equals.
func TestPrioritiesAndTurnsHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting(fourSlots, "high1", "high2", "high3", "low1", "low2", "low3"))
		const length = 50 * time.Millisecond
		for i := range 2000 {
			h.visit(t.Context(), chat("sk-high1"), length)
			if i < 200 {
				for _, key := range []string{"sk-high2", "sk-high3", "sk-low1", "sk-low2", "sk-low3"} {
					h.visit(t.Context(), chat(key), length)
				}
			}
		}
		h.all.Wait()
		checkOrder(t, h.visits, 4, 10*time.Second)
		if got := len(h.served()); got != 3000 {
			t.Errorf("%d requests were served, want all 3000", got)
		}
	})
}

// checkOrder checks who was served before whom; the first so many found a free slot.
func checkOrder(t *testing.T, visits []visit, direct int, age time.Duration) {
	t.Helper()
	total, counts := map[string]int{}, map[string]int{}
	for _, v := range visits {
		total[v.key]++
	}
	low := func(key string) bool { return key[:6] == "sk-low" }
	left := func(lows bool) (keys []string) {
		for key, n := range total {
			if low(key) == lows && n > 0 {
				keys = append(keys, key)
			}
		}
		return keys
	}
	aged := 0
	for i, v := range visits {
		if i >= direct && low(v.key) && len(left(false)) > 0 {
			aged++
			if v.served.Sub(v.arrived) <= age {
				t.Fatalf("%s was served after %v, while requests of high priority waited", v.key, v.served.Sub(v.arrived))
			}
		}
		total[v.key]--
		if i < direct {
			continue
		}
		counts[v.key]++
		if i+1 < len(visits) && visits[i+1].served.Equal(v.served) {
			continue // In which order those are noted that were let in at one moment is chance.
		}
		for _, lows := range []bool{true, false} {
			keys := left(lows)
			if len(keys) < 3 {
				continue // Who has nobody left to send cannot keep up.
			}
			slices.SortFunc(keys, func(a, b string) int { return counts[a] - counts[b] })
			if most, least := counts[keys[2]], counts[keys[0]]; most-least > 2 {
				t.Fatalf("after %d releases the keys of one priority have had %v", i+1, counts)
			}
		}
	}
	t.Logf("%d of low priority were let in by age", aged)
}

func TestAReservedShareComesBackWithOneRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 4, queue: {maxLength: 100, maxWaitSeconds: 120}, reserved: [{tierName: low, concurrentRequests: 2}]}", "high1", "low1"))
		for range 20 { // Nobody of low is there: all four slots are lent.
			h.visit(t.Context(), chat("sk-high1"), time.Second)
		}
		synctest.Wait()
		if got := len(h.served()); got != 4 {
			t.Fatalf("%d requests are served at once, want the idle share lent out: 4", got)
		}
		for range 4 {
			h.visit(t.Context(), chat("sk-low1"), 10*time.Second)
		}
		pause(1001 * time.Millisecond) // Four slots become free: two for the share, and two for who has priority.
		want := []string{"sk-high1", "sk-high1", "sk-low1", "sk-low1"}
		got := h.served()[4:]
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("who was served next (-want +got):\n%s", diff)
		}
		pause(time.Second)
		if got := h.served()[8:]; !cmp.Equal(got, []string{"sk-high1", "sk-high1"}) {
			t.Errorf("with the share in use %v were served next, want the ones with priority", got)
		}
		h.all.Wait()
	})
}

func TestWhoGoesAwayWhileWaitingCostsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 100, maxWaitSeconds: 120}}", "high1", "low1"))
		first := h.pass(t, chat("sk-high1"))
		ctx, cancel := context.WithCancel(t.Context())
		for range 50 {
			h.visit(ctx, chat("sk-high1"), 0)
		}
		h.visit(t.Context(), chat("sk-low1"), time.Hour)
		synctest.Wait()
		used := func() map[string]int64 { return h.used(t, chat("sk-high1")) }
		for priority, want := range map[string]float64{"1": 1, "2": 0, "3": 50, "4": 0} {
			if got := h.measured(t, "tierkeeper_queue_length", "gpt", priority); got != want {
				t.Errorf("%v of priority %s wait by the metric, want %v", got, priority, want)
			}
		}
		if diff := cmp.Diff(map[string]int64{"ModelShared Requests per Day": 52, "ModelShared ConcurrentRequests": 1}, used()); diff != "" {
			t.Errorf("while they wait (-want +got):\n%s", diff)
		}
		cancel()
		synctest.Wait()
		if diff := cmp.Diff(map[string]int64{"ModelShared Requests per Day": 2, "ModelShared ConcurrentRequests": 1}, used()); diff != "" {
			t.Errorf("when they are gone (-want +got):\n%s", diff)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		if diff := cmp.Diff([]string{"sk-low1"}, h.served()); diff != "" {
			t.Errorf("who was served (-want +got):\n%s", diff)
		}
		h.all.Wait()
	})
}

// pause lets time pass in a bubble.
func pause(d time.Duration) { <-time.After(d) }

func TestAWaitEndsWith503(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		queue string
		key   string
		wait  time.Duration
		code  string
	}{
		"after the model's time":              {"maxLength: 2, maxWaitSeconds: 120", "sk-high1", 120 * time.Second, "queue_timeout"},
		"after the tier's time":               {"maxLength: 2, maxWaitSeconds: 120", "sk-brief1", 7 * time.Second, "queue_timeout"},
		"at once, where the tier says so":     {"maxLength: 2, maxWaitSeconds: 120", "sk-at-once1", 0, "capacity_exceeded"},
		"at once, where too many wait":        {"maxLength: 1, maxWaitSeconds: 120", "sk-low1", 0, "queue_full"},
		"at once, where bodies are too large": {"maxLength: 2, maxWaitSeconds: 120, maxBodyBytes: 1048576", "sk-high1", 0, "queue_full"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := open(t, waiting("{concurrentRequests: 1, queue: {"+test.queue+"}}", "high1", "low1", "at-once1", "brief1"))
				first := h.pass(t, chat("sk-high1"))
				ctx, cancel := context.WithCancel(t.Context())
				h.visit(ctx, with(chat("sk-low1"), func(r *descriptor.Reserve) { r.InputBytes = 1 << 20 }), 0)
				synctest.Wait()
				before := h.used(t, chat("sk-high1"))
				h.visit(t.Context(), with(chat(test.key), func(r *descriptor.Reserve) { r.InputBytes = 1 << 20 }), 0)
				for left := test.wait; left > 0; left -= 10 * time.Second {
					h.renew(t, first)
					pause(min(left, 10*time.Second))
				}
				v := h.last()
				if v.status != http.StatusServiceUnavailable || v.code != test.code || v.served.Sub(v.arrived) != test.wait {
					t.Errorf("got %d %s after %v, want 503 %s after %v", v.status, v.code, v.served.Sub(v.arrived), test.code, test.wait)
				}
				if n, err := strconv.Atoi(v.headers["Retry-After"]); err != nil || n < 1 || n > 60 {
					t.Errorf("Retry-After is %q, want 1 to 60", v.headers["Retry-After"])
				}
				cancel()
				synctest.Wait()
				before["ModelShared Requests per Day"]-- // that of the one who went away
				if diff := cmp.Diff(before, h.used(t, chat("sk-high1"))); diff != "" {
					t.Errorf("what a request left behind that was not served (-want +got):\n%s", diff)
				}
				h.end(t, first, descriptor.Settle{Code: 200})
				h.pass(t, chat("sk-high1"))
				h.all.Wait()
			})
		})
	}
}

// A rate that is exceeded goes before the capacity, whether anybody waits or not.
func TestARateThatIsExceededIsToldBeforeTheCapacity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Hour, max: 2}]}, queue: {mode: Wait, maxWaitSeconds: 60}}}
models: {gpt: {models: ["gpt-*"], capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}}}
`)
		first := h.pass(t, chat("sk-alice"))
		h.visit(t.Context(), chat("sk-alice"), 0)
		synctest.Wait()
		h.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
		h.end(t, first, descriptor.Settle{Code: 200})
		h.all.Wait()
		h.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	})
}

// The slot of its own key is held while a request waits, however long.
func TestAWaiterHoldsTheSlotOfItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, `
tiers: {plan: {limits: {concurrency: {max: 2}}, queue: {mode: Wait, maxWaitSeconds: 300}}}
models: {gpt: {models: ["gpt-*"], capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 300}}}}
`)
		first := h.pass(t, chat("sk-alice"))
		h.visit(t.Context(), chat("sk-alice"), time.Second)
		for range 25 {
			pause(10 * time.Second)
			h.renew(t, first)
			h.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
		}
		h.end(t, first, descriptor.Settle{Code: 200})
		if got := len(h.served()); got != 1 {
			t.Fatalf("%d requests were served after the wait, want 1", got)
		}
		h.all.Wait()
		want := map[string]int64{"Key ConcurrentRequests": 0, "ModelShared ConcurrentRequests": 0}
		if diff := cmp.Diff(want, h.used(t, chat("sk-alice"))); diff != "" {
			t.Errorf("slots in the end (-want +got):\n%s", diff)
		}
	})
}

// A slot of which nobody hears any more is given to who waits.
func TestASlotThatExpiresIsGivenOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 120}}", "high1"))
		h.pass(t, chat("sk-high1"))
		h.visit(t.Context(), chat("sk-high1"), 0)
		h.all.Wait()
		v := h.last()
		if wait := v.served.Sub(v.arrived); v.status != 0 || wait < ratelimit.SlotExpiry || wait > ratelimit.SlotExpiry+100*time.Millisecond {
			t.Errorf("got status %d after %v, want it served within 100 ms of %v", v.status, wait, ratelimit.SlotExpiry)
		}
	})
}

func TestAnEditOfTheCapacityReachesWhoWaits(t *testing.T) {
	t.Parallel()
	const quota = "high1"
	for name, test := range map[string]struct {
		capacity string
		want     int // more that are let in at once
	}{
		"it grows":         {"{concurrentRequests: 3, queue: {maxLength: 9, maxWaitSeconds: 120}}", 2},
		"it shrinks":       {"{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 120}}", 0},
		"it goes":          {"", 5},
		"it is only tried": {"{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 120}}, enforcement: Shadow", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 120}}", quota))
				first := h.pass(t, chat("sk-high1"))
				for range 5 {
					h.visit(t.Context(), chat("sk-high1"), time.Second)
				}
				synctest.Wait()
				h.apply(t, waiting(test.capacity, quota))
				synctest.Wait()
				if got := len(h.served()); got != test.want {
					t.Errorf("%d more are served, want %d", got, test.want)
				}
				h.end(t, first, descriptor.Settle{Code: 200})
				h.all.Wait()
				if got := len(h.served()); got != 5 {
					t.Errorf("%d are served in the end, want all 5", got)
				}
				pause(100 * time.Millisecond)
				if used := h.used(t, chat("sk-high1"))["ModelShared ConcurrentRequests"]; used != 0 {
					t.Errorf("%d slots are taken in the end", used)
				}
			})
		})
	}
}

// Slots that become free all at once are given out at a pace that a backend can bear.
func TestManySlotsAreGivenOutAtAPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 9999, maxWaitSeconds: 120}}", "high1"))
		h.pass(t, chat("sk-high1"))
		for range 1000 {
			h.visit(t.Context(), chat("sk-high1"), time.Minute)
		}
		synctest.Wait()
		h.apply(t, waiting("{concurrentRequests: 5000, queue: {maxLength: 9999, maxWaitSeconds: 120}}", "high1"))
		began := h.clock.now()
		h.all.Wait()
		in10ms := map[int64]int{}
		for _, v := range h.visits {
			in10ms[int64(v.served.Sub(began)/(10*time.Millisecond))]++
		}
		for slice, n := range in10ms {
			if n > 100 {
				t.Errorf("%d were let in within the 10 ms number %d, want at most 50 in 10 ms", n, slice)
			}
		}
		if last := h.visits[len(h.visits)-1].served.Sub(began); last > time.Second {
			t.Errorf("the last one was let in after %v, want less than a second", last)
		}
	})
}

// TestNobodyKeepsOthersOutOfAQueue lets one key take all that a queue has, of places or of bytes, and then others come: one has
// a reserved share, one a higher priority, and one neither.
func TestNobodyKeepsOthersOutOfAQueue(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		queue string
		n     int   // that the queue takes
		bytes int64 // of each body
		each  int   // places that others get
	}{
		"places": {"maxLength: 100, maxWaitSeconds: 120", 100, 1, 25},
		"bytes":  {"maxLength: 100, maxWaitSeconds: 120, maxBodyBytes: 67108864", 64, 1 << 20, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := open(t, waiting("{concurrentRequests: 1, queue: {"+test.queue+"}, reserved: [{tierName: brief, concurrentRequests: 1}]}", "low1", "low2", "high1", "brief1"))
				ctx, goAway := context.WithCancel(t.Context())
				send := func(key string, n int) {
					for range n {
						h.visit(ctx, with(chat(key), func(r *descriptor.Reserve) { r.InputBytes = test.bytes }), time.Hour)
						synctest.Wait()
					}
				}
				send("sk-low1", 1+test.n+50)
				others := []string{"sk-low2", "sk-high1", "sk-brief1"}
				for _, key := range others {
					send(key, test.each)
				}
				full := map[string]int{}
				for _, v := range h.visits {
					if v.code == "queue_full" {
						full[v.key]++
					}
				}
				if diff := cmp.Diff(map[string]int{"sk-low1": 50 + 3*test.each}, full); diff != "" {
					t.Errorf("who was refused (-want +got):\n%s", diff)
				}
				for _, key := range others {
					send(key, 1) // has its part, and gets no more
					if v := h.last(); v.key != key || v.code != "queue_full" {
						t.Errorf("the last was %s %s, want %s queue_full", v.key, v.code, key)
					}
				}
				// What was taken for those who had to go is given back: one is served, and so many wait.
				if got := h.used(t, chat("sk-low1"))["ModelShared Requests per Day"]; got != int64(1+test.n) {
					t.Errorf("%d requests are charged, want %d", got, 1+test.n)
				}
				goAway()
				h.all.Wait()
			})
		})
	}
}

// meanwhile calls something in the middle of the next request: after it has found the table in force, before it goes by it.
type meanwhile struct {
	counter.Failures

	call func()
}

func (m *meanwhile) Any(now time.Time) bool {
	if call := m.call; call != nil {
		m.call = nil
		call()
	}
	return m.Failures.Any(now)
}

// A request that has found the table of before may be the first one to ask for a queue.
func TestAQueueGoesByTheTableInForceWhoeverMakesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := func(slots int) string {
			return waiting(fmt.Sprintf("{concurrentRequests: %d, queue: {maxLength: 9, maxWaitSeconds: 120}}", slots), "high1") +
				"gateway: {abuseProtection: {}}\n"
		}
		during := &meanwhile{Failures: memory.NewFailures()}
		h := &hall{service: serveAt(t, nil, text(1), ratelimit.WithFailures(during)), t: t}
		during.call = func() { h.apply(t, text(3)) }
		first := h.pass(t, chat("sk-high1"))
		h.pass(t, chat("sk-high1"))
		h.pass(t, chat("sk-high1"))
		h.visit(t.Context(), chat("sk-high1"), 0)
		synctest.Wait()
		h.end(t, first, descriptor.Settle{Code: 200})
		if got := len(h.served()); got != 1 {
			t.Errorf("with two of three slots taken %d of one that waits were served", got)
		}
		h.all.Wait()
		pause(100 * time.Millisecond)
	})
}

// The metric of refusals has all of those by a capacity, whether they waited before or not.
func TestEveryRefusalByACapacityIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := open(t, waiting("{concurrentRequests: 1, queue: {maxLength: 1, maxWaitSeconds: 5}}", "high1", "at-once1"))
		refusals := func(quota string) float64 {
			return h.measured(t, "tierkeeper_denied_total", "team/"+quota, "ConcurrentRequests", "ModelLimit gpt", "", "ModelShared")
		}
		h.pass(t, chat("sk-high1"))
		h.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable)
		h.visit(t.Context(), chat("sk-high1"), 0) // which waits in vain
		synctest.Wait()
		h.refuse(t, chat("sk-at-once1"), http.StatusServiceUnavailable)
		h.refuse(t, chat("sk-high1"), http.StatusServiceUnavailable) // for which the queue is too long
		h.all.Wait()
		for quota, want := range map[string]float64{"at-once1": 2, "high1": 2} {
			if got := refusals(quota); got != want {
				t.Errorf("%v refusals of %s are counted, want %v", got, quota, want)
			}
		}
		pause(100 * time.Millisecond)
	})
}
