package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/tierkeeper/tierkeeper/policy"
)

// TestProgress: what was seen before a compilation is in it, and what changes no table is in the newest one as well.
func TestProgress(t *testing.T) {
	t.Parallel()
	tables := newTables(clock.RealClock{})
	tables.note(policy.KindQuota, 4, true)
	compile(tables, 1)
	tables.note(policy.KindQuota, 5, false) // A status was written.
	if got := tables.progressAt(1)[policy.KindQuota]; got != 5 {
		t.Errorf("the newest table is as of %d, want 5", got)
	}
	tables.note(policy.KindQuota, 6, true)
	tables.note(policy.KindQuota, 7, false)
	if got := tables.progressAt(1)[policy.KindQuota]; got != 4 {
		t.Errorf("the table that lacks 6 is as of %d, want 4", got)
	}
	if got := tables.next(policy.KindQuota); got != 8 {
		t.Errorf("what is written next has %d at least, want 8", got)
	}
	seen := tables.begin()
	if got := tables.progressAt(1)[policy.KindQuota]; got != 4 {
		t.Errorf("while 6 is being compiled, the table that lacks it is as of %d, want 4", got)
	}
	tables.set(&compilation{mark: 2, seen: seen})
	for mark, want := range map[uint64]uint64{0: 0, 1: 4, 2: 7, 3: 7} {
		if got := tables.progressAt(mark)[policy.KindQuota]; got != want {
			t.Errorf("mark %d is as of %d, want %d", mark, got, want)
		}
	}
	for mark := uint64(3); mark < 3+keptMarks; mark++ {
		compile(tables, mark)
	}
	if got := tables.progressAt(2); len(got) != 0 {
		t.Errorf("a mark that is long gone is as of %v, want nothing", got)
	}
}

func compile(tables *tables, mark uint64) {
	tables.set(&compilation{mark: mark, seen: tables.begin()})
}

func TestChanges(t *testing.T) {
	t.Parallel()
	object := func(name string) policy.Object {
		return policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: name}}
	}
	before := compiled(policy.Verdict{Object: object("deleted")}, policy.Verdict{Object: object("edited"), Generation: 1}, policy.Verdict{Object: object("hit"), Generation: 1}, policy.Verdict{Object: object("same"), Generation: 1})
	now := compiled(policy.Verdict{Object: object("edited"), Generation: 2}, policy.Verdict{Object: object("hit"), Generation: 1, Problems: []policy.Problem{{Reason: "X"}}},
		policy.Verdict{Object: object("new"), Generation: 1}, policy.Verdict{Object: object("same"), Generation: 1})
	edited, other := changes(before, now)
	if diff := cmp.Diff([]policy.Object{object("edited"), object("new")}, edited); diff != "" {
		t.Errorf("edited (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]policy.Object{object("hit")}, other); diff != "" {
		t.Errorf("other (-want +got):\n%s", diff)
	}
	if edited, other := changes(nil, now); len(edited) != 4 || len(other) != 0 {
		t.Errorf("at the start %d are edited and %d other, want 4 and 0", len(edited), len(other))
	}
}

func compiled(verdicts ...policy.Verdict) *compilation {
	table, _ := policy.Compile(policy.Input{})
	return &compilation{table: table, verdicts: verdicts}
}

func TestVerdictsAreFound(t *testing.T) {
	t.Parallel()
	in := policy.Input{}
	table, verdicts := policy.Compile(in)
	c := &compilation{table: table, verdicts: verdicts}
	if _, found := c.verdict(quota); found {
		t.Error("a verdict on an object that is not there was found")
	}
	var none *compilation
	if _, found := none.verdict(quota); found {
		t.Error("a verdict was found before the first compilation")
	}
}

// TestACompileLoopThatIsStuckIsNotAlive: a change waits, and neither later ones nor compilations that failed make it younger.
func TestACompileLoopThatIsStuckIsNotAlive(t *testing.T) {
	t.Parallel()
	clock := testclock.NewFakeClock(time.Unix(100, 0))
	c := &compiler{opts: &Options{Clock: clock}, tables: newTables(clock)}
	check := func(when string, want bool) {
		t.Helper()
		if err := c.alive(); (err == nil) != want {
			t.Errorf("%s it says %v; alive should be %t", when, err, want)
		}
	}
	change := func() { c.tables.note(policy.KindQuota, 1, true) }
	change()
	clock.Step(time.Hour)
	check("while the caches are filled", true)
	c.tables.begin()
	change()
	clock.Step(stuckAfter)
	check("after two minutes of the first compilation", true)
	clock.Step(1)
	check("after more than two minutes", false)
	c.tables.begin()
	check("when it is tried again", false)
	change()
	clock.Step(stuckAfter)
	c.tables.set(&compilation{mark: 1})
	check("when it has compiled, and something has changed meanwhile", true)
	clock.Step(1)
	check("when that is not compiled", false)
	compile(c.tables, 2)
	clock.Step(time.Hour)
	check("while nothing changes", true)
	c.tables.note(policy.KindQuota, 2, false)
	clock.Step(time.Hour)
	check("after what needs no compilation", true)
}
