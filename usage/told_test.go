package usage_test

import (
	"context"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
)

// A source is a service that may be asked only for what is used here, as one of very many quotas, and that may fail.
type source struct {
	*ratelimit.Limiter

	fails error
	alone bool
	asked func() // before it tells; nil: nothing happens
}

func (s *source) Alone() bool { return s.alone }

func (s *source) Quotas() []policy.Name { return nil }

func (s *source) Usage(ctx context.Context, quota policy.Name) ([]ratelimit.Usage, bool, error) {
	if s.fails != nil {
		return nil, false, s.fails
	}
	if s.asked != nil {
		s.asked()
	}
	return s.Limiter.Usage(ctx, quota)
}

// amongMany is a cluster in which the turn of a quota that is not used here never comes.
func amongMany(t *testing.T, text string) (*cluster, *source) {
	t.Helper()
	c := newCluster(t, text)
	s := &source{Limiter: c.limiter}
	c.Reporter = usage.NewReporter(s, c, c)
	if err := c.Begin(t.Context(), c.now()); err != nil {
		t.Fatal(err)
	}
	return c, s
}

func (c *cluster) wantReached(n int) {
	c.t.Helper()
	if len(c.reached) != n {
		c.t.Errorf("at %s: told %q, want %d messages", c.now().Format(time.TimeOnly), c.reached, n)
	}
}

// TestTheEndOfAWindowIsTold, and that a condition was held long enough, though nothing is used then.
func TestTheEndOfAWindowIsTold(t *testing.T) {
	t.Parallel()
	c, _ := amongMany(t, minute)
	c.use("alice", 10)
	c.after(time.Second)
	full := c.tell(alice)
	if len(full) != 3 {
		t.Fatalf("it says %q, want its use and two conditions", full)
	}
	c.after(19 * time.Second)
	c.want(alice, "Key/Requests/Minute 0 of 10", full[1], full[2])
	c.after(40 * time.Second)
	c.after(20 * time.Second)
	c.want(alice, "Key/Requests/Minute 0 of 10")
}

// TestAConditionIsHeldOverARestart: the next leader holds it as long as the former would have.
func TestAConditionIsHeldOverARestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, minute)
	c.use("alice", 10)
	c.after(time.Second)
	full := c.tell(alice)
	c.restart()
	c.after(19 * time.Second)
	c.want(alice, "Key/Requests/Minute 0 of 10", full[1], full[2])
	c.restart()
	c.after(time.Second)
	c.want(alice, "Key/Requests/Minute 0 of 10", full[1], full[2])
	c.after(time.Minute)
	c.want(alice, "Key/Requests/Minute 0 of 10")
}

// TestEachWindowIsTold though the use of the next is as high when it is first looked at.
func TestEachWindowIsTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, minute)
	for n := range 3 {
		c.use("alice", 10)
		c.after(time.Second)
		c.wantReached(n + 1)
		c.nanos.Add(int64(time.Minute))
	}
}

// TestASlidingWindowIsNotToldAgain while its use stays above the threshold: its end moves on with each request.
func TestASlidingWindowIsNotToldAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10, algorithm: SlidingWindow}]}}, quotas: {alice: {}}}`)
	c.use("alice", 8)
	c.after(10 * time.Second)
	c.use("alice", 1)
	c.after(10 * time.Second)
	c.wantReached(1)
}

// TestAServiceThatCannotTellIsAskedAgain, and what was said meanwhile stays.
func TestAServiceThatCannotTellIsAskedAgain(t *testing.T) {
	t.Parallel()
	c, s := amongMany(t, aDay)
	c.use("alice", 20)
	c.after(time.Second)
	s.fails = errRefused
	c.use("alice", 20)
	c.after(time.Second)
	c.after(5 * time.Second)
	c.want(alice, "Key/Requests/Day 20 of 200, until 00:00:00")
	s.fails = nil
	c.after(5 * time.Second)
	c.want(alice, "Key/Requests/Day 40 of 200, until 00:00:00")
	c.wantWrites(2)
}

// TestOfSeveralLimitsTheOneThatMattersIsNamed, in whatever order they stand.
func TestOfSeveralLimitsTheOneThatMattersIsNamed(t *testing.T) {
	t.Parallel()
	const (
		hour = `{metric: Requests, per: Hour, max: 10}`
		day  = `{metric: Requests, per: Day, max: 11}`
	)
	for _, rates := range []string{hour + ", " + day, day + ", " + hour} {
		c := newCluster(t, `{plan: {limits: {rates: [`+rates+`]}}, quotas: {alice: {}}}`)
		c.use("alice", 9)
		c.after(time.Second)
		conditions := c.says[alice].Conditions
		if got, want := conditions[0].Message, "The use of the limit Key/Requests/Hour has reached 80% of its max, 10."; got != want {
			t.Errorf("of %s it says %q, want %q", rates, got, want)
		}
		if got := c.says[alice].Usage.Highest.ID; got != "Key/Requests/Hour" {
			t.Errorf("of %s the most is used of %s", rates, got)
		}
	}
	for _, rates := range []string{
		hour + ", {metric: Requests, per: Day, max: 10}", "{metric: Requests, per: Day, max: 10}, " + hour,
	} {
		c := newCluster(t, `{plan: {limits: {rates: [`+rates+`]}}, quotas: {alice: {}}}`)
		c.use("alice", 10)
		c.after(time.Second)
		if got, want := c.says[alice].Conditions[1].Message, "The limit Key/Requests/Day is used up until 2026-01-03T00:00:00Z."; got != want {
			t.Errorf("of %s it says %q, want %q", rates, got, want)
		}
	}
}

// TestTwoLimitsOfOneIDAreToldAsOne: the one of which more is used.
func TestTwoLimitsOfOneIDAreToldAsOne(t *testing.T) {
	t.Parallel()
	for _, own := range []string{"{metric: Requests, per: Hour, max: 10, algorithm: SlidingWindow}", "{metric: Requests, per: Hour, max: 10}"} {
		for _, tiers := range []string{"{metric: Requests, per: Hour, max: 20}", "{metric: Requests, per: Hour, max: 20, algorithm: SlidingWindow}"} {
			c := newCluster(t, `{plan: {keyOverrides: Any, limits: {rates: [`+tiers+`]}}, quotas: {alice: {limits: {rates: [`+own+`]}}}}`)
			c.use("alice", 5)
			c.after(time.Second)
			if got := c.tell(alice); len(got) != 1 || *c.says[alice].Usage.Limits[0].Max != 10 {
				t.Errorf("of %s on a plan with %s it says %q", own, tiers, got)
			}
		}
	}
}

func TestAnotherMaxIsNews(t *testing.T) {
	t.Parallel()
	c := newCluster(t, aDay)
	c.use("alice", 2)
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 2 of 200, until 00:00:00")
	c.limiter.SetTable(compile(t, `{plan: {limits: {rates: [{metric: Requests, per: Day, max: 150}]}}, quotas: {alice: {}}}`))
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 2 of 150, until 00:00:00")
}

// TestAReplicaThatKnowsOnlyItselfChangesNothing: what others have admitted would be gone from the objects.
func TestAReplicaThatKnowsOnlyItselfChangesNothing(t *testing.T) {
	t.Parallel()
	c, s := amongMany(t, aDay)
	c.use("alice", 100)
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 100 of 200, until 00:00:00")
	all := s.Limiter
	c.store = memory.New()
	s.Limiter, s.alone = c.replica(aDay), true
	c.useAt(s.Limiter, "alice", 50)
	c.after(time.Minute)
	c.want(alice, "Key/Requests/Day 100 of 200, until 00:00:00")
	c.useAt(all, "alice", 50)
	s.Limiter, s.alone = all, false
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 150 of 200, until 00:00:00")
}

// TestAReplicaThatKnowsOnlyItselfOfASuddenChangesNothing: the store may go out in the middle of a pass, or because that asks it.
func TestAReplicaThatKnowsOnlyItselfOfASuddenChangesNothing(t *testing.T) {
	t.Parallel()
	c, s := amongMany(t, aDay)
	c.use("alice", 100)
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 100 of 200, until 00:00:00")
	all := s.Limiter
	c.useAt(all, "alice", 50)
	s.asked = func() {
		c.store = memory.New()
		s.Limiter, s.alone = c.replica(aDay), true
	}
	c.after(time.Second)
	c.want(alice, "Key/Requests/Day 100 of 200, until 00:00:00")
	s.Limiter, s.alone, s.asked = all, false, nil
	c.after(time.Minute)
	c.want(alice, "Key/Requests/Day 150 of 200, until 00:00:00")
}
