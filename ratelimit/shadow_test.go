package ratelimit_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// An ask is a request of a recorded day.
type ask struct {
	at     time.Duration
	key    string
	model  string
	output int64 // that it reserves, and may use less or more of
	used   int64
	length time.Duration
}

// recorded is a random day of requests, by when they came.
func recorded(r *rand.Rand, n int, over, longest time.Duration) []ask {
	var day []ask
	for range n {
		a := ask{
			at: time.Duration(r.Int64N(int64(over))), key: fmt.Sprint("sk-key", r.IntN(3)), model: fmt.Sprint("gpt-", r.IntN(3)),
			output: 1 + r.Int64N(30), length: time.Duration(1 + r.Int64N(int64(longest))),
		}
		a.used = 1 + r.Int64N(2*a.output)
		day = append(day, a)
	}
	slices.SortFunc(day, func(a, b ask) int { return int(a.at - b.at) })
	return day
}

func (a ask) reserve() *descriptor.Reserve {
	return with(chat(a.key), func(r *descriptor.Reserve) { r.Model, r.MaxOutput = a.model, a.output })
}

// seen is how many requests are recorded that would have been refused.
func (s *service) seen() (n int64) {
	list, more := s.Shadows()
	for _, entry := range list {
		n += entry.Count
	}
	return n + more
}

const manyLimits = `
tiers:
  plan:
    limits: {rates: [{metric: Requests, per: Second, max: 2}, {metric: Tokens, per: Minute, max: 900}, {metric: OutputTokens, per: Hour, algorithm: SlidingWindow, max: 9000}], concurrency: {max: 6}}
    models: [{model: gpt-1, limits: {rates: [{metric: Requests, per: Minute, max: 9}]}}]
models:
  gpt: {models: ["gpt-*"], shared: {rates: [{metric: Requests, per: Minute, max: 60}], concurrency: {max: 11}}}
users:
  team/ann: {user: ann, limits: {rates: [{metric: Requests, per: Minute, max: 50}]}}
quotas:
  team/key0: {tierRef: {name: plan}, user: ann}
  team/key1: {tierRef: {name: plan}, user: ann, limits: {rates: [{metric: Requests, per: Hour, max: 300}]}}
  team/key2: {tierRef: {name: plan}}
`

// TestShadowRecordsWhatIsRefusedLater plays a recorded day twice on the same clock: with a gateway that only records, and
// with one that enforces. The requests that were recorded must be those that are refused.
func TestShadowRecordsWhatIsRefusedLater(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	day := recorded(rand.New(rand.NewPCG(seed, 1)), 3000, 20*time.Minute, 8*time.Second)
	var want []int
	shadow := serve(t, manyLimits+"gateway: {enforcement: Shadow}")
	shadow.play(t, day, func(i int, d ratelimit.Decision, recorded bool) {
		if d.Status != 0 {
			t.Fatalf("request %d was refused with %d", i, d.Status)
		}
		if recorded {
			want = append(want, i)
		}
	})
	var got []int
	serve(t, manyLimits).play(t, day, func(i int, d ratelimit.Decision, _ bool) {
		if d.Status != 0 {
			got = append(got, i)
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests that are refused (-recorded +refused):\n%s", diff)
	}
	if len(want) == 0 || len(want) == len(day) {
		t.Errorf("%d of %d are recorded, which proves nothing", len(want), len(day))
	}
	t.Logf("%d of %d requests are recorded, and refused", len(want), len(day))
	told := map[string]bool{}
	list, more := shadow.Shadows()
	for _, entry := range list {
		told[entry.Origin.Kind+" "+entry.Origin.Field] = true
		if entry.Count < 1 || entry.First.After(entry.Last) || entry.Gateway != gatewayName || !strings.HasPrefix(entry.Key, "team/key") {
			t.Errorf("the report has %+v", entry)
		}
	}
	if len(told) < 5 || more != 0 {
		t.Errorf("the report tells of %v and %d more, want several limits of several objects", told, more)
	}
}

// play asks for everything of a day, and settles in time.
func (s *service) play(t *testing.T, day []ask, note func(i int, d ratelimit.Decision, recorded bool)) {
	t.Helper()
	type open struct {
		until time.Time
		d     ratelimit.Decision
		used  int64
	}
	var running []open
	settle := func(now time.Time) {
		slices.SortStableFunc(running, func(a, b open) int { return a.until.Compare(b.until) })
		for len(running) > 0 && !running[0].until.After(now) {
			s.clock.set(running[0].until)
			s.end(t, running[0].d, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 1, Output: running[0].used}})
			running = running[1:]
		}
		s.clock.set(now)
	}
	for i, a := range day {
		settle(start.Add(a.at))
		before := s.seen()
		d := s.ask(t, a.reserve())
		recorded := s.seen() > before
		note(i, d, recorded)
		if d.Status == 0 {
			// In truth a request that is only recorded may take as long as it likes.
			running = append(running, open{start.Add(a.at + a.length), d, a.used})
		}
	}
	settle(start.Add(time.Hour))
}

// TestAShadowQueueRecordsWhoWouldNotBeServed plays a rush against a capacity that is only recorded, and against the same one.
func TestAShadowQueueRecordsWhoWouldNotBeServed(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	day := recorded(rand.New(rand.NewPCG(seed, 1)), 1000, 2*time.Minute, 2*time.Second)
	const text = `
tiers:
  first: {priority: High, queue: {mode: Wait, maxWaitSeconds: 5}}
  second: {priority: Low, queue: {mode: Wait, maxWaitSeconds: 20}}
  third: {priority: Normal}
models:
  gpt: {models: ["gpt-*"], enforcement: %s, capacity: {concurrentRequests: 4, queue: {maxLength: 12, maxWaitSeconds: 15}, reserved: [{tierName: second, concurrentRequests: 1}]}}
quotas: {team/key0: {tierRef: {name: first}}, team/key1: {tierRef: {name: second}}, team/key2: {tierRef: {name: third}}}
`
	counts := map[string]map[string]int64{}
	for _, enforcement := range []string{"Shadow", "Enforce"} {
		synctest.Test(t, func(t *testing.T) {
			h := open(t, fmt.Sprintf(text, enforcement))
			began := h.clock.now()
			for _, a := range day {
				pause(a.at - h.clock.now().Sub(began))
				h.visit(t.Context(), a.reserve(), a.length)
			}
			h.all.Wait()
			pause(time.Minute)
			n := map[string]int64{}
			for _, v := range h.visits {
				if v.status != 0 {
					n[strings.Replace(v.key, "sk-", "team/", 1)]++
				}
			}
			list, _ := h.Shadows()
			for _, entry := range list {
				n[entry.Key] += entry.Count
			}
			counts[enforcement] = n
		})
	}
	t.Logf("recorded %v, refused %v", counts["Shadow"], counts["Enforce"])
	for key, refused := range counts["Enforce"] {
		// Within 2 %, and 3 requests: who is let in first of two that come in the same moment is left to chance.
		if diff := counts["Shadow"][key] - refused; max(diff, -diff) > refused/50+3 {
			t.Errorf("of %s %d are recorded, and %d refused", key, counts["Shadow"][key], refused)
		}
		if refused == 0 {
			t.Errorf("of %s nothing is refused, which proves nothing", key)
		}
	}
}

// TestAShadowLimitIsNotSeen wants clients to see the limits that hold, and no others.
func TestAShadowLimitIsNotSeen(t *testing.T) {
	t.Parallel()
	const text = "tiers: {plan: {limits: %s, enforcement: %s}}\nmodels: {gpt: {models: ['gpt-*'], shared: {rates: [{metric: Requests, per: Hour, max: 50}]}}}"
	s := serve(t, fmt.Sprintf(text, rates("Requests Minute 1", "Tokens Minute 100"), "Shadow"))
	s.pass(t, chat("sk-alice"))
	got := headersOf(t, s.pass(t, chat("sk-alice")))
	want := map[string]string{"x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": "48"}
	if diff := cmp.Diff(want, only(got, "x-ratelimit-limit", "x-ratelimit-remaining")); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got := s.seen(); got != 1 {
		t.Errorf("%d requests are recorded, want 1", got)
	}
	// What was counted counts on when it is enforced.
	s.apply(t, fmt.Sprintf(text, rates("Requests Minute 1", "Tokens Minute 100"), "Enforce"))
	s.refuse(t, chat("sk-alice"), 429)
}

// A request can be between two tables: the plan by which it came let it wait, and the capacity has no queue any more.
func TestAQueueThatIsTriedCanBeTakenAwayUnderARequest(t *testing.T) {
	t.Parallel()
	text := func(capacity string) string {
		return `
tiers: {plan: {queue: {mode: Wait, maxWaitSeconds: 60}}}
models: {gpt: {models: ["gpt-*"], enforcement: Shadow, capacity: ` + capacity + `}}
`
	}
	s := serve(t, text("{concurrentRequests: 1, queue: {maxLength: 5, maxWaitSeconds: 60}}"))
	during := func() {}
	s.Limiter = ratelimit.New(&slowStore{s.store, func() { during() }}, secret, ratelimit.WithClock(s.clock.now))
	s.SetTable(s.table)
	s.pass(t, chat("sk-alice"))
	during = func() {
		during = func() {}
		s.apply(t, text("{concurrentRequests: 1}"))
		s.pass(t, chat("sk-alice"))
	}
	s.pass(t, chat("sk-alice"))
	if got := s.seen(); got != 2 {
		t.Errorf("%d requests are recorded that would have been refused, want the two that found the slot taken", got)
	}
}

// Where nothing is enforced a group and its parent can have a capacity each, and both are tried.
func TestTheCapacitiesOfAGroupAndItsParentAreBothTried(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {}}
gateway: {enforcement: Shadow}
models:
  all: {models: ["o*"], capacity: {concurrentRequests: 3}, enforcement: Shadow}
  gpt: {models: ["gpt-*"], parentRef: {name: all}, capacity: {concurrentRequests: 1}}
`)
	for range 5 {
		s.pass(t, chat("sk-alice"))
	}
	got := map[string]int64{}
	list, _ := s.Shadows()
	for _, entry := range list {
		got[entry.Origin.Name] = entry.Count
	}
	if diff := cmp.Diff(map[string]int64{"gpt": 4, "all": 2}, got); diff != "" {
		t.Errorf("what would have been refused, by ModelLimit (-want +got):\n%s", diff)
	}
}

// Who waits for what is enforced, and leaves unserved, leaves nothing with what is only tried.
func TestWhoLeavesUnservedLeavesNothingWithWhatIsTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveAt(t, nil, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 3}], concurrency: {max: 3}}, enforcement: Shadow, queue: {mode: Wait, maxWaitSeconds: 5}}}
models:
  all: {models: ["o*"], capacity: {concurrentRequests: 2}, enforcement: Shadow}
  gpt: {models: ["gpt-*"], parentRef: {name: all}, capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}}
`)
		first := s.pass(t, chat("sk-alice"))
		for range 5 {
			s.refuse(t, chat("sk-alice"), 503)
		}
		if used := s.used(t, chat("sk-alice"))["Key Requests per Day"]; used != 1 {
			t.Errorf("%d requests are counted of which one was served", used)
		}
		if n := s.seen(); n != 0 {
			list, _ := s.Shadows()
			t.Errorf("%d are recorded as refused of which each would have fit: %+v", n, list)
		}
		s.end(t, first, descriptor.Settle{Code: 200})
		pause(lookedAgain)
	})
}

// In a rehearsal a request lives as long as its signs of life come, wherever it is.
func TestARequestRunsInARehearsalAsLongAsItLives(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {queue: {mode: Wait, maxWaitSeconds: 300}}}
models: {gpt: {models: ["gpt-*"], enforcement: Shadow, capacity: {concurrentRequests: 1, queue: {maxLength: 1, maxWaitSeconds: 300}}}}
`)
	full := func(want bool) {
		t.Helper()
		before := s.seen()
		s.pass(t, chat("sk-alice"))
		if got := s.seen() > before; got != want {
			t.Errorf("after %v another is refused: %t, want %t", s.clock.now().Sub(start), got, want)
		}
	}
	lives := s.pass(t, chat("sk-alice"))
	waits := s.pass(t, chat("sk-alice"))
	for range 6 {
		s.clock.advance(10 * time.Second)
		s.renew(t, lives)
		s.renew(t, waits)
		full(true)
	}
	// The other one takes 80 seconds in truth, and its turn comes after 60.
	s.end(t, lives, descriptor.Settle{Code: 200})
	s.pass(t, chat("sk-alice")) // which waits behind it, and of which nobody hears any more
	full(true)
	s.clock.advance(20 * time.Second)
	s.renew(t, waits)
	s.end(t, waits, descriptor.Settle{Code: 200})
	for range 5 {
		s.clock.advance(10 * time.Second)
		full(true)
	}
	s.clock.advance(10 * time.Second) // After 140 seconds it ends, and the one behind it has been dead for long.
	full(false)
}

// What one of the limits would refuse is charged to none that is only tried.
func TestWhatIsRefusedInPlayRunsInNoRehearsal(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 1}]}, enforcement: Shadow}}
models: {gpt: {models: ["gpt-*"], enforcement: Shadow, capacity: {concurrentRequests: 1}}}
`)
	for range 5 {
		s.pass(t, chat("sk-alice"))
	}
	if n := s.seen(); n != 4 {
		t.Errorf("%d refusals are recorded of 4 requests that would have been refused", n)
	}
}

// A report tells so many apart, and counts the rest.
func TestAReportOfShadowsIsBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {stranger: {limits: {rates: [{metric: Requests, per: Day, max: 0}]}}}
quotas: {}
gateway: {enforcement: Shadow, identity: {sources: [{header: Authorization, prefix: "Bearer "}], missingKey: {action: AssignTier, tierRef: {name: stranger}}}}
`)
	for n := range 1100 {
		s.pass(t, with(chat("sk-nobody"), func(r *descriptor.Reserve) {
			r.Credentials, r.Client = nil, fmt.Sprintf("192.0.%d.%d", n/250, n%250)
		}))
	}
	if list, more := s.Shadows(); len(list) != 1000 || more != 100 {
		t.Errorf("%d are told apart and %d are not, want 1000 and 100", len(list), more)
	}
}
