package usage_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
)

const (
	alice  = "ApiKeyQuota team/alice"
	aDay   = `{plan: {limits: {rates: [{metric: Requests, per: Day, max: 200}]}}, quotas: {alice: {}}}`
	minute = `{plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10}]}}, quotas: {alice: {}}}`
)

func (c *cluster) want(object string, lines ...string) {
	c.t.Helper()
	if diff := cmp.Diff(lines, c.tell(object)); diff != "" {
		c.t.Errorf("at %s, %s (-want +got):\n%s", c.now().Format(time.TimeOnly), object, diff)
	}
}

func (c *cluster) wantWrites(n int) {
	c.t.Helper()
	if len(c.writes) != n {
		c.t.Errorf("at %s: %d writes, want %d: %v", c.now().Format(time.TimeOnly), len(c.writes), n, c.writes)
	}
}

func TestStatusTellsWhatIsUsed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `
plan:
  limits: {rates: [{metric: Requests, per: Second, max: 1000}, {metric: Requests, per: Day, max: 1000}, {metric: Tokens, per: Month, max: 1000000}], concurrency: {max: 900}}
  resources: [{resource: chat, limits: {rates: [{metric: Requests, per: Hour, max: 50}]}}, {resource: images, limits: {rates: [{metric: Requests, per: Hour, max: 50}]}}]
quotas: {alice: {}, bob: {}}
`)
	c.use("alice", 36)
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 30 of 1000, until 00:00:00", "Key/Tokens/Month 30000 of 1000000, until 00:00:00", "KeyResource/chat/Requests/Hour 36 of 50, until 13:00:00")
	c.want("ApiKeyQuota team/bob")
	got := c.says[alice]
	if got.Usage.Highest.ID != "KeyResource/chat/Requests/Hour" || *got.Usage.Highest.Remaining != 14 || !got.Usage.ObservationTime.Time.Equal(c.now()) {
		t.Errorf("highest is %+v, observed at %v", got.Usage.Highest, got.Usage.ObservationTime)
	}
	at := metav1.NewTime(c.now())
	want := []metav1.Condition{
		{Type: "ApproachingLimit", Status: "False", Reason: "BelowThresholds", Message: "The use of no limit has reached a threshold.", LastTransitionTime: at},
		{Type: "Exhausted", Status: "False", Reason: "WithinLimits", Message: "No limit is used up.", LastTransitionTime: at},
	}
	if diff := cmp.Diff(want, got.Conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

func TestNothingIsWrittenThatTellsNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.after(time.Second)
	c.use("alice", 1)
	c.after(time.Second)
	c.wantWrites(0) // Half a percent is none.
	c.use("alice", 1)
	c.after(time.Second)
	c.wantWrites(1)
	c.use("alice", 1)
	c.after(time.Second)
	c.after(time.Hour)
	c.wantWrites(1)
	c.after(12 * time.Hour)
	c.want(alice, "Key/Requests/Day 0 of 200")
	c.wantWrites(2)
	c.after(48 * time.Hour)
	c.wantWrites(2)
}

func TestWhatIsUsedUpIsTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, minute)
	c.use("alice", 10)
	c.after(time.Second)
	full := []string{
		"Key/Requests/Minute 10 of 10, until 12:31:00",
		"ApproachingLimit: The use of the limit Key/Requests/Minute has reached 100% of its max, 10.",
		"Exhausted: The limit Key/Requests/Minute is used up until 2026-01-02T12:31:00Z.",
	}
	c.want(alice, full...)
	c.after(20 * time.Second) // The window has ended, and the conditions are held.
	c.want(alice, "Key/Requests/Minute 0 of 10", full[1], full[2])
	c.use("alice", 10)
	c.after(time.Second)
	c.after(50 * time.Second)
	c.after(9 * time.Second) // The next window has ended.
	for _, condition := range c.says[alice].Conditions {
		if condition.Status != metav1.ConditionTrue || !condition.LastTransitionTime.Time.Equal(start.Add(time.Second)) {
			t.Errorf("it flaps: %+v", condition)
		}
	}
	for range 60 {
		c.after(time.Second)
	}
	c.want(alice, "Key/Requests/Minute 0 of 10")
	n := len(c.writes)
	c.after(time.Hour)
	c.wantWrites(n)
}

func TestAThresholdIsToldOnceInAWindow(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Day, max: 200}]}, alerts: {thresholdPercents: [50, 80, 100]}}, quotas: {alice: {}}}`)
	says := func(percent int) string {
		return fmt.Sprintf("%s %d: The use of the limit Key/Requests/Day has reached %d%% of its max, 200.", alice, percent, percent)
	}
	c.use("alice", 99)
	c.after(time.Second)
	c.use("alice", 3)
	c.after(time.Second)
	c.use("alice", 3)
	c.after(time.Second)
	want := []string{says(50)}
	if diff := cmp.Diff(want, c.reached); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	c.restart()
	c.use("alice", 3)
	c.after(time.Second)
	c.use("alice", 92)
	c.after(time.Second)
	c.restart()
	c.after(time.Second)
	want = append(want, says(100))
	if diff := cmp.Diff(want, c.reached); diff != "" {
		t.Errorf("told after a restart (-want +got):\n%s", diff)
	}
	c.after(12 * time.Hour)
	c.use("alice", 160)
	c.after(time.Second)
	if diff := cmp.Diff(append(want, says(80)), c.reached); diff != "" {
		t.Errorf("told in the next window (-want +got):\n%s", diff)
	}
}

func TestReachedThresholdsAreCounted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 200)
	c.after(time.Second)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Reporter)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"tierkeeper_quota_threshold_reached_total 80": 1, "tierkeeper_quota_threshold_reached_total 100": 1,
		"tierkeeper_usage_waiting_objects": 0, "tierkeeper_usage_writes_total written": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// A window that slides is a new one once its use was below every threshold.
func TestASlidingWindowIsToldOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10, algorithm: SlidingWindow}]}}, quotas: {alice: {}}}`)
	for _, n := range []int{9, 0, 1, 0, 0} {
		c.use("alice", n)
		c.after(10 * time.Second)
	}
	if len(c.reached) != 2 {
		t.Errorf("told %q, want 80 and 100 once", c.reached)
	}
	c.want(alice, "Key/Requests/Minute 10 of 10, until 12:32:03",
		"ApproachingLimit: The use of the limit Key/Requests/Minute has reached 100% of its max, 10.", "Exhausted: The limit Key/Requests/Minute is used up.")
	c.after(time.Minute)
	c.after(time.Minute)
	c.want(alice, "Key/Requests/Minute 0 of 10")
	c.use("alice", 8)
	c.after(time.Second)
	if len(c.reached) != 3 {
		t.Errorf("told %q, want another 80", c.reached)
	}
}

func TestAUserIsToldOnceForAllItsKeys(t *testing.T) {
	t.Parallel()
	text := `{plan: {}, quotas: {alice: {user: ann}, bob: {user: ann}}, users: {for-ann: {user: ann, limits: {rates: [{metric: Requests, per: Day, max: 10}]}}}}`
	c := newCluster(t, text)
	c.use("alice", 4)
	c.use("bob", 4)
	c.after(time.Second)
	c.want("UserQuota team/for-ann", "User/Requests/Day 8 of 10, until 00:00:00", "ApproachingLimit: The use of the limit User/Requests/Day has reached 80% of its max, 10.")
	c.wantWrites(1)
	if len(c.reached) != 1 {
		t.Errorf("told %q, want it once", c.reached)
	}
	c.after(13 * time.Hour)
	c.want("UserQuota team/for-ann", "User/Requests/Day 0 of 10")
}

// Many quotas change at once, and the API server must not feel it. Whoever runs out comes first.
func TestWritesAreBounded(t *testing.T) {
	t.Parallel()
	const quotas = 300
	var names []string
	for i := range quotas {
		names = append(names, fmt.Sprintf("q%03d: {}", i))
	}
	c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Month, max: 10}]}}, quotas: {`+strings.Join(names, ", ")+`}}`)
	for i := range quotas {
		c.use(fmt.Sprintf("q%03d", i), 1)
	}
	c.after(time.Second)
	c.wantWrites(10)
	c.use("q222", 9)
	c.after(time.Second)
	c.wantWrites(20)
	if c.writes[10] != "ApiKeyQuota team/q222" {
		t.Errorf("written were %v, want q222 first", c.writes[10:])
	}
	for range 4 {
		c.after(250 * time.Millisecond)
	}
	if n := len(c.writes); n < 28 || n > 30 {
		t.Errorf("%d writes within another second, want 10", n-20)
	}
	for range 60 {
		c.after(time.Second)
	}
	if written := slices.Compact(slices.Sorted(slices.Values(c.writes))); len(written) != quotas || len(c.writes) > quotas+1 {
		t.Errorf("%d objects were written %d times, want each of %d once, and one twice", len(written), len(c.writes), quotas)
	}
}

func TestTheRateOfWritesIsAChoice(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Month, max: 10}]}}, quotas: {a: {}, b: {}, c: {}}}`, usage.WithWritesPerSecond(1))
	for _, key := range []string{"a", "b", "c"} {
		c.use(key, 1)
	}
	for i := range 4 {
		c.after(time.Second)
		c.wantWrites(min(i+1, 3))
	}
}

// A replica knows of the requests that others admitted by what they have counted.
func TestWhatOtherReplicasAdmittedIsFound(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.useAt(c.replica(aDay), "alice", 50)
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 50 of 200, until 00:00:00")
}

func TestAWriteThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, strings.Replace(aDay, "alice: {}", "alice: {}, bob: {}", 1))
	c.fails[alice] = errRefused
	c.use("alice", 200)
	c.use("bob", 10)
	c.after(time.Second)
	c.want(alice)
	c.want("ApiKeyQuota team/bob", "Key/Requests/Day 10 of 200, until 00:00:00")
	c.after(time.Second)
	c.wantWrites(3)
	if c.reached != nil {
		t.Errorf("told %q, which no status says", c.reached)
	}
	delete(c.fails, alice)
	c.after(time.Second)
	if len(c.tell(alice)) != 3 || len(c.reached) != 1 {
		t.Errorf("%q, told %q", c.tell(alice), c.reached)
	}
}

func TestWhatIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 50)
	c.fails[alice] = usage.ErrGone
	c.after(time.Second)
	if c.Known() != 0 {
		t.Error("an object that is gone is kept")
	}

	delete(c.fails, alice)
	c.use("alice", 50)
	c.after(time.Second)
	c.limiter.SetTable(compile(t, `{plan: {}, quotas: {}}`))
	c.restart()
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 100 of 200, until 00:00:00") // The table may come yet.
	c.after(time.Hour)
	if len(c.says[alice].Usage.Limits) != 0 {
		t.Errorf("it still says %v", c.says[alice].Usage)
	}
}

// Nothing changes in its use, so nothing but the object itself tells that it is another one, or was written by somebody else.
func TestAnObjectThatSaysAnotherThingIsWrittenAnew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *cluster){
		"it was deleted and made again": func(c *cluster) { delete(c.says, alice) },
		"it says less": func(c *cluster) {
			s := c.says[alice]
			c.says[alice] = usage.Status{Usage: &v1alpha1.Usage{ObservationTime: s.Usage.ObservationTime}, Conditions: s.Conditions}
		},
		"it lacks a condition": func(c *cluster) {
			s := c.says[alice]
			c.says[alice] = usage.Status{Usage: s.Usage, Conditions: s.Conditions[:1]}
		},
		"a condition was turned": func(c *cluster) {
			s := c.says[alice]
			conditions := slices.Clone(s.Conditions)
			conditions[1].Status = metav1.ConditionFalse
			c.says[alice] = usage.Status{Usage: s.Usage, Conditions: conditions}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, aDay)
			c.use("alice", 200)
			c.after(time.Second)
			want := c.tell(alice)
			change(c)
			c.after(time.Minute)
			c.wantWrites(1)
			c.after(time.Minute)
			c.want(alice, want...)
			c.wantWrites(2)
			if len(c.reached) != 1 {
				t.Errorf("told %q, want one message", c.reached)
			}
			c.after(time.Hour)
			c.wantWrites(2)
		})
	}
}

// TestAnObjectFromALaterClockIsWrittenAnew: the clock of the former leader was ahead.
func TestAnObjectFromALaterClockIsWrittenAnew(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 200)
	c.after(time.Second)
	want := c.tell(alice)
	c.says[alice].Usage.ObservationTime = new(metav1.NewTime(c.now().Add(time.Hour)))
	c.restart()
	delete(c.says, alice)
	c.after(2 * time.Minute)
	c.want(alice, want...)
}

func TestAReadingThatFailsLeavesWhatIsKnown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 20)
	c.after(time.Second)
	said := c.says[alice]
	c.fails["last"] = errRefused
	delete(c.says, alice)
	c.after(time.Hour)
	c.wantWrites(1)
	c.says[alice] = said
	delete(c.fails, "last")
	c.after(time.Hour)
	c.wantWrites(1)
}

func TestNobodyKeepsWhatIsNotUsed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 1)
	c.after(time.Second)
	if c.Known() != 1 {
		t.Errorf("%d objects are known, want 1", c.Known())
	}
	c.after(24 * time.Hour)
	if c.Known() != 0 {
		t.Errorf("%d objects are known, want none", c.Known())
	}
}

func TestAReporterThatCannotReadSaysSo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.fails["last"] = errRefused
	if err := c.Begin(t.Context(), c.now()); err == nil || err.Error() != "reading what the status of objects says: refused" {
		t.Errorf("got %v", err)
	}
}

func TestAStatusHoldsTheMostUsedLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var limits []ratelimit.LimitUse
		for i, used := range rapid.SliceOfN(rapid.Int64Range(0, 12), 0, 20).Draw(t, "used") {
			limits = append(limits, ratelimit.LimitUse{Entry: fmt.Sprint(i), Used: used, Max: 10})
		}
		most := rapid.IntRange(1, 10).Draw(t, "most")
		want := slices.Clone(limits)
		slices.SortStableFunc(want, func(a, b ratelimit.LimitUse) int { return b.Percent() - a.Percent() })
		want = want[:min(most, len(want))]
		got := usage.MostUsed(slices.Clone(limits), most)
		for _, l := range limits {
			if slices.Contains(want, l) != slices.Contains(got, l) {
				t.Fatalf("of %v, want %v, got %v", limits, want, got)
			}
		}
	})
}

func TestRoundedUseHasTheSamePercent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(math.MaxInt64-3, math.MaxInt64), rapid.Int64Range(0, math.MaxInt64))
		exact := ratelimit.LimitUse{Used: amount.Draw(t, "used"), Max: amount.Draw(t, "max")}
		rounded := ratelimit.LimitUse{Used: usage.LeastOf(exact.Percent(), exact.Max), Max: exact.Max}
		if rounded.Percent() != exact.Percent() || rounded.Used > exact.Used || rounded.Used < 0 || rounded.Used > exact.Max {
			t.Fatalf("%d of %d, %d%%, is told as %d, %d%%", exact.Used, exact.Max, exact.Percent(), rounded.Used, rounded.Percent())
		}
	})
}

// In synctest time passes only while everything waits.
func TestRunWritesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, aDay)
		c.use("alice", 20)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		<-time.After(1500 * time.Millisecond)
		synctest.Wait()
		c.want(alice, "Key/Requests/Day 20 of 200, until 00:00:00")
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAReadingHoldsUpNothing: a large cluster takes long to read. What is written meanwhile it does not know yet.
func TestAReadingHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(release, stop func()){
		"and is told":    func(release, _ func()) { release() },
		"and is stopped": func(_, stop func()) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Day, max: 200}]}}, quotas: {alice: {}, bob: {}}}`)
				c.use("alice", 20)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- c.Run(ctx) }()
				<-time.After(90*time.Second + 500*time.Millisecond) // between two passes
				synctest.Wait()
				release := c.hold()
				<-time.After(40 * time.Second) // Two minutes after the first, the second reading has begun.
				c.use("alice", 20)
				c.use("bob", 20) // It says nothing yet, and so is not in the reading.
				<-time.After(2 * time.Second)
				synctest.Wait()
				c.want(alice, "Key/Requests/Day 40 of 200, until 00:00:00")
				c.wantWrites(3)
				end(release, stop)
				<-time.After(time.Minute)
				synctest.Wait()
				c.wantWrites(3)
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// As much as before is used, and all the same it is another window.
func TestAnotherWindowIsNews(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 20)
	c.after(time.Second)
	c.nanos.Add(int64(24 * time.Hour))
	c.use("alice", 20)
	c.after(time.Second)
	c.wantWrites(2)
	if got, want := c.says[alice].Usage.Limits[0].ResetTime.Time, start.Truncate(24*time.Hour).AddDate(0, 0, 2); !got.Equal(want) {
		t.Errorf("the window ends at %v, want %v", got, want)
	}
}
