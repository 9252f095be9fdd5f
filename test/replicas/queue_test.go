package replicas_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/descriptor"
)

// plans are tiers, and a holder of the same name on each. Who is at-once may not wait.
func plans() string {
	docs := []string{gateway}
	for name, spec := range map[string]string{
		"high":    "{priority: High, queue: {mode: Wait, maxWaitSeconds: 60}}",
		"low":     "{priority: Low, queue: {mode: Wait, maxWaitSeconds: 60}}",
		"brief":   "{priority: High, limits: {rates: [{metric: Requests, per: Day, max: 1000}]}, queue: {mode: Wait, maxWaitSeconds: 1}}",
		"at-once": "{priority: Critical, limits: {rates: [{metric: Requests, per: Day, max: 1000}]}}",
	} {
		docs = append(docs, fmt.Sprintf("apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: %s}\nspec: %s", name, spec), holder(name, name))
	}
	return joined(append(docs, holder("equal", "high"))...)
}

// capacity is a model of the name, and those who wait for it.
func capacity(name, spec string) string {
	return fmt.Sprintf("apiVersion: tierkeeper.io/v1alpha1\nkind: ModelLimit\nmetadata: {name: %[1]s}\nspec: {models: [%[1]s], capacity: %[2]s}", name, spec)
}

// A room is a model with a capacity, as its callers see it.
type room struct {
	*installation

	model string

	mu           sync.Mutex
	inside, most int
}

// A guest is a request that was let in.
type guest struct {
	name, lease string
	came        time.Time
}

// ask returns when a request is let in, or else the status and the code with which it was refused.
func (x *room) ask(t *testing.T, at *replica, name string) (g guest, refusal string) {
	t.Helper()
	answer, err := at.call(t.Context(), request{holder: name, model: x.model}.descriptor())
	if err != nil {
		t.Errorf("reserving for %s: %v", name, err)
		return guest{}, "failed"
	}
	fields := answer.GetDynamicMetadata().GetFields()
	lease := fields[descriptor.KeyLease].GetStringValue()
	if lease == "" {
		var body struct{ Error struct{ Code string } }
		if err := json.Unmarshal(answer.GetRawBody(), &body); err != nil {
			t.Errorf("the body of a refusal: %v", err)
		}
		return guest{}, fields[descriptor.MetadataDenyStatus].GetStringValue() + " " + body.Error.Code
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.inside++
	x.most = max(x.most, x.inside)
	return guest{name, lease, time.Now()}, ""
}

// enter is ask for those who must be let in.
func (x *room) enter(t *testing.T, at *replica, name string) guest {
	t.Helper()
	g, refusal := x.ask(t, at, name)
	if refusal != "" {
		t.Errorf("%s was refused with %s", name, refusal)
	}
	return g
}

func (x *room) leave(t *testing.T, at *replica, g guest) {
	t.Helper()
	x.mu.Lock()
	x.inside--
	x.mu.Unlock()
	at.settle(t, g.lease, 1)
}

// queue has requests wait one after the other, and sends them to in once they are let in.
func (x *room) queue(t *testing.T, at *replica, in chan<- guest, names ...string) {
	t.Helper()
	for _, name := range names {
		before := x.waiting(t, at)
		go func() { in <- x.enter(t, at, name) }()
		eventually(t, soon, name+" waits", func() bool { return x.waiting(t, at) == before+1 })
	}
}

// waiting is how many wait at a replica.
func (x *room) waiting(t *testing.T, at *replica) (n int) {
	t.Helper()
	for priority := 1; priority <= 4; priority++ {
		length, _ := at.find(t, fmt.Sprintf(`tierkeeper_queue_length{model_limit="%s",priority="%d"}`, x.model, priority)) // None before it was asked.
		n += int(length)
	}
	return n
}

// check demands that never more were inside than there are slots.
func (x *room) check(t *testing.T, slots int) {
	t.Helper()
	if x.most != slots {
		t.Errorf("at most %d were under way at once, want %d", x.most, slots)
	}
}

func times(n int, name string) []string { return slices.Repeat([]string{name}, n) }

// TestQueuesOfReplicasAreLikeOne has requests wait at two replicas for the same slots.
func TestQueuesOfReplicasAreLikeOne(t *testing.T) {
	t.Parallel()
	const four = "concurrentRequests: 4, queue: {maxLength: 100, maxWaitSeconds: 60}"
	contests := []contest{
		{"equals wait at both", "high", "equal", 8, 25},
		{"who comes does not overtake who waits elsewhere", "high", "equal", 4, 25},
		{"who waits elsewhere and has priority goes first", "low", "high", 8, 75},
		{"who comes does not overtake who has priority", "low", "high", 4, 75},
	}
	manifests := []string{plans(), capacity("handed", "{"+four+"}"), capacity("shared", "{"+four+", reserved: [{tierName: low, concurrentRequests: 2}]}")}
	for i := range contests {
		manifests = append(manifests, capacity(fmt.Sprint("contest-", i), "{"+four+"}"))
	}
	x := install(t, 2, joined(manifests...), on(redistest.Start(t).Addr), patient)
	t.Run("a slot that is freed at one replica is taken at another", func(t *testing.T) {
		t.Parallel()
		(&room{installation: x, model: "handed"}).handOver(t)
	})
	t.Run("a reserved share holds", func(t *testing.T) {
		t.Parallel()
		(&room{installation: x, model: "shared"}).share(t)
	})
	for i, c := range contests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			(&room{installation: x, model: fmt.Sprint("contest-", i)}).contest(t, c)
		})
	}
}

// handOver has all wait at one replica, and all leave at the other.
func (x *room) handOver(t *testing.T) {
	t.Helper()
	const waiters = 20
	var inside []guest
	for i := range 4 {
		inside = append(inside, x.enter(t, x.replicas[i%2], "high"))
	}
	in := make(chan guest, waiters)
	x.queue(t, x.replicas[1], in, times(waiters, "high")...)
	var delays []time.Duration
	for range waiters {
		freed := time.Now()
		x.leave(t, x.replicas[0], inside[0])
		next := <-in
		inside = append(inside[1:], next)
		delays = append(delays, next.came.Sub(freed).Round(time.Millisecond))
	}
	x.check(t, 4)
	slices.Sort(delays)
	t.Logf("who waited at another replica than the one where a slot was freed had it within %s in half of %d cases, and within %s in all", delays[waiters/2], waiters, delays[waiters-1])
	for _, g := range inside {
		x.leave(t, x.replicas[0], g)
	}
}

// share has others fill the queues of both, and all leave at the replica where the tier with the share does not wait.
func (x *room) share(t *testing.T) {
	t.Helper()
	var inside []guest
	for i := range 4 {
		inside = append(inside, x.enter(t, x.replicas[i%2], "high")) // The share is lent while it is idle.
	}
	in := make(chan guest, 15)
	x.queue(t, x.replicas[0], in, times(6, "high")...)
	x.queue(t, x.replicas[1], in, slices.Concat(times(6, "equal"), times(3, "low"))...)
	step := func() string {
		x.leave(t, x.replicas[0], inside[0])
		next := <-in
		inside = append(inside[1:], next)
		return next.name
	}
	lows := 0
	for range 4 {
		if step() == "low" {
			lows++
		}
	}
	if lows != 2 {
		t.Errorf("of four slots that were freed the tier with the share got %d, want its 2", lows)
	}
	for range cap(in) - 4 {
		step()
	}
	x.check(t, 4)
	for _, g := range inside {
		x.leave(t, x.replicas[0], g)
	}
}

// A contest is between callers who come again as soon as they have left. Those of each side have a replica of their own, where they
// ask and leave.
type contest struct {
	name          string
	first, second string // whose callers they are
	callers       int    // of the first, who have all slots until the second wait; the second have 8
	least         int    // percent that the second must get
}

func (x *room) contest(t *testing.T, c contest) {
	t.Helper()
	const enough, seconds, lasts = 160, 8, 40 * time.Millisecond
	come := make(chan struct{}) // closed once the second wait
	var mu sync.Mutex
	var all sync.WaitGroup
	var served [2]int
	send := func(side, n int, name string) {
		for range n {
			all.Go(func() {
				for goesOn := true; goesOn && !t.Failed(); {
					g := x.enter(t, x.replicas[side], name)
					mu.Lock()
					served[side]++
					goesOn = served[0]+served[1] < enough
					mu.Unlock()
					<-come
					pass(t, lasts)
					x.leave(t, x.replicas[side], g)
				}
			})
		}
	}
	send(0, c.callers, c.first)
	eventually(t, soon, "the first have all slots", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.most == 4
	})
	send(1, seconds, c.second)
	eventually(t, soon, "the second wait", func() bool { return x.waiting(t, x.replicas[1]) == seconds })
	began := time.Now()
	close(come)
	all.Wait()
	x.check(t, 4)
	t.Logf("%d of %s and %d of %s were served in %s", served[0], c.first, served[1], c.second, time.Since(began).Round(time.Millisecond))
	if served[1]*100 < c.least*(served[0]+served[1]) {
		t.Errorf("%d of %s at one replica and %d of %s at the other were served, want at least %d in 100 of these", served[0], c.first, served[1], c.second, c.least)
	}
}

// TestWhoMayNotWaitIsRefusedAlike asks the last replica; the slot is held at the first, which may be the same.
func TestWhoMayNotWaitIsRefusedAlike(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprint("replicas: ", replicas), func(t *testing.T) {
			t.Parallel()
			x := &room{model: "narrow"}
			x.installation = install(t, replicas, joined(plans(), capacity("narrow", "{concurrentRequests: 1, queue: {maxLength: 3, maxWaitSeconds: 60}}")),
				on(redistest.Start(t).Addr), patient)
			first, last := x.replicas[0], x.replicas[replicas-1]
			held := x.enter(t, first, "high")
			got := map[string]string{}
			_, got["no place to wait"] = x.ask(t, last, "at-once")
			in := make(chan guest, 3)
			x.queue(t, last, in, times(2, "high")...)
			_, got["too long a wait"] = x.ask(t, last, "brief")
			x.queue(t, last, in, "high")
			_, got["too many who wait"] = x.ask(t, last, "high")
			_, got["where others wait"] = x.ask(t, last, "at-once")
			_, got["where none waits"] = x.ask(t, first, "at-once")
			want := map[string]string{
				"no place to wait": "503 capacity_exceeded", "too long a wait": "503 queue_timeout", "too many who wait": "503 queue_full",
				"where others wait": "503 capacity_exceeded", "where none waits": "503 capacity_exceeded",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
			for _, name := range []string{"brief", "at-once"} {
				if diff := cmp.Diff(map[string]int64{"Key/Requests/Day": 0}, x.used(t, name)); diff != "" {
					t.Errorf("what %s was charged (-want +got):\n%s", name, diff)
				}
			}
			for range cap(in) {
				x.leave(t, first, held)
				held = <-in
			}
			x.leave(t, first, held)
			x.check(t, 1)
		})
	}
}
