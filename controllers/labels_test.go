package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testclock "k8s.io/utils/clock/testing"

	"github.com/tierkeeper/tierkeeper/policy"
)

func inTeam(namespace, name string) policy.Name { return policy.Name{Namespace: namespace, Name: name} }

// TestSecretsAreOpenUntilTheyWereLookedFor: what was not looked for yet may be there and lack the label.
func TestSecretsAreOpenUntilTheyWereLookedFor(t *testing.T) {
	t.Parallel()
	u := newUnlabelled(nil, testclock.NewFakeClock(time.Unix(100, 0)), nil)
	a, b := inTeam("team", "a"), inTeam("team", "b")
	check := func(aOpen, bOpen bool, want ...policy.Name) {
		t.Helper()
		if diff := cmp.Diff(want, u.among([]policy.Name{a, b})); diff != "" {
			t.Errorf("there (-want +got):\n%s", diff)
		}
		if u.open(a) != aOpen || u.open(b) != bOpen {
			t.Errorf("open are %t and %t, want %t and %t", u.open(a), u.open(b), aOpen, bOpen)
		}
	}
	check(true, true)
	if u.found(a, false) {
		t.Error("one is not there, which nobody had said it was, and somebody is told")
	}
	check(false, true)
	u.failed(b)
	check(false, true)
	if !u.found(b, true) {
		t.Error("one is there, and nobody is told")
	}
	check(false, true, b) // What was compiled before does not know that.
	if u.open(inTeam("team", "unnamed")) {
		t.Error("a Secret that nobody names is open")
	}
}

// TestNamespacesTakeTurns: whoever names many Secrets holds up nobody else.
func TestNamespacesTakeTurns(t *testing.T) {
	t.Parallel()
	clock := testclock.NewFakeClock(time.Unix(100, 0))
	u := newUnlabelled(nil, clock, nil)
	var names []policy.Name
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		names = append(names, inTeam("many", n))
	}
	u.among(names)
	clock.Step(time.Second)
	u.among(append(names, inTeam("one", "late")))
	for i := range 2 {
		clock.Step(time.Second)
		next, due := u.next()
		if !due {
			t.Fatal("nothing is due")
		}
		u.found(next, false)
		if next.Namespace == "one" {
			return
		}
		if i == 1 {
			t.Error("the one Secret of its namespace comes after two of another")
		}
	}
}
