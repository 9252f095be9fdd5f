package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testclock "k8s.io/utils/clock/testing"

	"github.com/tierkeeper/tierkeeper/policy"
)

// TestSecretsAreLookedForBeforeAnybodyIsSure: what was not looked for yet may be there and lack the label.
func TestSecretsAreLookedForBeforeAnybodyIsSure(t *testing.T) {
	t.Parallel()
	u := newUnlabelled(nil, testclock.NewFakeClock(time.Unix(100, 0)), nil)
	a, b := policy.Name{Namespace: "team", Name: "a"}, policy.Name{Namespace: "team", Name: "b"}
	check := func(wantSure bool, want ...policy.Name) {
		t.Helper()
		there, sure := u.among([]policy.Name{a, b})
		if diff := cmp.Diff(want, there); diff != "" || sure != wantSure {
			t.Errorf("sure: %t, want %t; there (-want +got):\n%s", sure, wantSure, diff)
		}
	}
	check(false)
	if u.found(a, false, lookAgain) {
		t.Error("one of two is not there, which is no news before the other was looked for")
	}
	check(false)
	if !u.found(b, false, lookAgain) {
		t.Error("all were looked for, and nobody is told")
	}
	check(true)
	if u.found(b, false, lookAgain) {
		t.Error("nothing has changed, and somebody is told")
	}
	if !u.found(b, true, lookAgain) {
		t.Error("one is there now, and nobody is told")
	}
	check(true, b)
}
