package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestAGenerationIsInForceOnceItWasSeen: a version of the object that everybody has seen tells nothing of one that came later.
func TestAGenerationIsInForceOnceItWasSeen(t *testing.T) {
	t.Parallel()
	at := func(generation int64, uid, version string) *v1alpha1.ApiKeyQuota {
		q := &v1alpha1.ApiKeyQuota{}
		q.Generation, q.UID, q.ResourceVersion = generation, "app", version
		if uid != "" {
			q.UID = "another"
		}
		return q
	}
	tables := newTables(clock.RealClock{})
	tables.note(policy.KindQuota, 20, true)
	s := &status{tables: tables, since: map[policy.Object]generation{}}
	for _, step := range []struct {
		name   string
		held   *v1alpha1.ApiKeyQuota
		turned bool
		want   uint64
	}{
		{"it is seen first", at(1, "", "5"), false, 5},
		{"its status was written", at(1, "", "6"), false, 5},
		{"it was edited", at(2, "", "7"), false, 7},
		{"its status was written again", at(2, "", "8"), false, 7},
		{"it has turned: whoever has seen it has seen it refused", at(2, "", "9"), true, 21},
		{"it stays so", at(2, "", "10"), false, 21},
		{"it is another object with the same number", at(2, "another", "22"), false, 22},
	} {
		if got := s.seenSince(quota, step.held, step.turned); got != step.want {
			t.Errorf("%s: it is seen since %d, want %d", step.name, got, step.want)
		}
	}
}

func TestOnlyWhatWasRefusedAsItIsHasTurned(t *testing.T) {
	t.Parallel()
	refused := metav1.Condition{Type: accepted, Status: metav1.ConditionFalse, ObservedGeneration: 2}
	formerly, true2 := refused, refused
	formerly.ObservedGeneration, true2.Status = 1, metav1.ConditionTrue
	problem := []policy.Problem{{Reason: v1alpha1.ReasonTierNotFound}}
	for name, tc := range map[string]struct {
		problems []policy.Problem
		before   []metav1.Condition
		want     bool
	}{
		"it was refused":                {nil, []metav1.Condition{refused}, true},
		"it is refused still":           {problem, []metav1.Condition{refused}, false},
		"it was refused before":         {nil, []metav1.Condition{formerly}, false},
		"it was accepted":               {nil, []metav1.Condition{true2}, false},
		"nothing was said of it so far": {nil, nil, false},
	} {
		if got := hasTurned(&policy.Verdict{Generation: 2, Problems: tc.problems}, tc.before); got != tc.want {
			t.Errorf("%s: it has turned: %t, want %t", name, got, tc.want)
		}
	}
}

// TestWhatTurnsIsInForceOnceItWasSeenAccepted: a service that has seen the quota without its plan has it not in force with it.
func TestWhatTurnsIsInForceOnceItWasSeenAccepted(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.secrets = nil
		s.tables.note(policy.KindQuota, 5000, true)
		s.hear(func(d *dataPlane) { d.services.seen[policy.KindQuota] = 5000 })
		s.compile(t)
		s.want(t, quota, accepted, "SecretNotFound 1")
		s.secrets = written(1, 7).Secrets
		s.compile(t)
		after(time.Second)
		s.want(t, quota, accepted, "Accepted 1")
		s.want(t, quota, programmed, "Pending 1")
		s.hear(func(d *dataPlane) { d.services.seen[policy.KindQuota] = 5001 })
		s.want(t, quota, programmed, "Programmed 1")
	})
}
