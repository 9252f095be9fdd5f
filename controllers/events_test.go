package controllers

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

func is(kind, reason, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if kind == accepted && reason == v1alpha1.ReasonAccepted || kind == programmed && reason == v1alpha1.ReasonProgrammed {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

// TestEventsTellWhatPeopleMustHear: that an object is refused, in each new way, and that it no longer is; not that it waits.
func TestEventsTellWhatPeopleMustHear(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		object        policy.Object
		kind          string
		before, now   string // reasons
		words, become string // messages
		want          string // empty: nothing
	}{
		"it is accepted at first":          {object: quota, kind: accepted, now: v1alpha1.ReasonAccepted},
		"it is refused at first":           {object: quota, kind: accepted, now: v1alpha1.ReasonTierNotFound, become: "No.", want: "Warning TierNotFound No."},
		"it is refused":                    {object: quota, kind: accepted, before: v1alpha1.ReasonAccepted, now: v1alpha1.ReasonTierNotFound, become: "No.", want: "Warning TierNotFound No."},
		"it is refused as before":          {object: quota, kind: accepted, before: v1alpha1.ReasonTierNotFound, words: "No.", now: v1alpha1.ReasonTierNotFound, become: "No."},
		"it is refused in other words":     {object: quota, kind: accepted, before: v1alpha1.ReasonTierNotFound, words: "No.", now: v1alpha1.ReasonTierNotFound, become: "No!", want: "Warning TierNotFound No!"},
		"it is refused for another reason": {object: quota, kind: accepted, before: v1alpha1.ReasonKeyClaimed, words: "No.", now: v1alpha1.ReasonTierNotFound, become: "No.", want: "Warning TierNotFound No."},
		"it is no longer refused":          {object: quota, kind: accepted, before: v1alpha1.ReasonTierNotFound, now: v1alpha1.ReasonAccepted, become: "Yes.", want: "Normal Accepted Yes."},
		"it is accepted as before":         {object: quota, kind: accepted, before: v1alpha1.ReasonAccepted, now: v1alpha1.ReasonAccepted, become: "Yes."},
		"it waits":                         {object: quota, kind: programmed, before: v1alpha1.ReasonProgrammed, now: v1alpha1.ReasonPending},
		"it has waited":                    {object: quota, kind: programmed, before: v1alpha1.ReasonPending, now: v1alpha1.ReasonProgrammed},
		"it cannot be in force":            {object: quota, kind: programmed, before: v1alpha1.ReasonProgrammed, now: v1alpha1.ReasonNotAccepted},
		"an Envoy rejects it":              {object: edge, kind: programmed, before: v1alpha1.ReasonProgrammed, now: v1alpha1.ReasonEnvoyRejected, become: "No.", want: "Warning EnvoyRejected No."},
		"no Envoy rejects it, but waits":   {object: edge, kind: programmed, before: v1alpha1.ReasonEnvoyRejected, now: v1alpha1.ReasonPending},
		"its last Envoy has gone":          {object: edge, kind: programmed, before: v1alpha1.ReasonProgrammed, now: v1alpha1.ReasonNoDataPlane, become: "No.", want: "Warning NoDataPlane No."},
		"it has no Envoy yet":              {object: edge, kind: programmed, before: v1alpha1.ReasonPending, now: v1alpha1.ReasonNoDataPlane},
		"it is new, and has no Envoy":      {object: edge, kind: programmed, now: v1alpha1.ReasonNoDataPlane},
		"a crowd of quotas has no service": {object: quota, kind: programmed, before: v1alpha1.ReasonProgrammed, now: v1alpha1.ReasonNoDataPlane},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := map[string]metav1.Condition{accepted: is(programmed, v1alpha1.ReasonPending, ""), programmed: is(accepted, v1alpha1.ReasonAccepted, "")}[tc.kind]
			held := kinds[tc.object.Kind]()
			if tc.before != "" {
				statusOf(held).Conditions = []metav1.Condition{is(tc.kind, tc.before, tc.words), other}
			}
			wanted := v1alpha1.ObjectStatus{Conditions: []metav1.Condition{is(tc.kind, tc.now, tc.become), other}}
			if diff := cmp.Diff(tc.want, strings.Join(told(tc.object, held, wanted), "\n")); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}

func told(o policy.Object, held client.Object, wanted v1alpha1.ObjectStatus) (all []string) {
	news := events.NewFakeRecorder(10)
	(&status{events: news}).tell(&change{object: o, held: held, status: wanted})
	close(news.Events)
	for text := range news.Events {
		all = append(all, text)
	}
	return all
}

func TestAnEventHoldsNoMoreThanTheAPIServerTakes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("x", maxNote), strings.Repeat("x", maxNote+1), strings.Repeat("x", 5*maxNote), strings.Repeat("ü", maxNote)} {
		long := is(accepted, v1alpha1.ReasonTierNotFound, text)
		all := told(quota, &v1alpha1.ApiKeyQuota{}, v1alpha1.ObjectStatus{Conditions: []metav1.Condition{long, is(programmed, v1alpha1.ReasonPending, "")}})
		if len(all) != 1 {
			t.Fatalf("told are %d events, want 1", len(all))
		}
		note := strings.TrimPrefix(all[0], "Warning TierNotFound ")
		if len(note) > maxNote || len(note) < maxNote-1 || !utf8.ValidString(note) || strings.HasSuffix(note, "...") != (len(text) > maxNote) {
			t.Errorf("of %d bytes %d are told, ending in %q", len(text), len(note), note[len(note)-5:])
		}
	}
}

// TestWhatIsSaidAnewIsLookedAt: a change elsewhere says something else of an object that nobody has edited.
func TestWhatIsSaidAnewIsLookedAt(t *testing.T) {
	t.Parallel()
	keys := func(text string) map[policy.Name]policy.Secret {
		return map[policy.Name]policy.Secret{{Namespace: "team-a", Name: "keys"}: policy.ReadSecret("Opaque", map[string][]byte{"app": []byte(text)})}
	}
	for name, tc := range map[string]struct {
		change        func(*policy.Input)
		edited, other []policy.Object
	}{
		"nothing":                        {func(*policy.Input) {}, nil, nil},
		"another key in a Secret":        {func(in *policy.Input) { in.Secrets = keys("sk-other") }, nil, []policy.Object{quota}},
		"a Secret that is gone":          {func(in *policy.Input) { in.Secrets = nil }, nil, []policy.Object{quota}},
		"a tier that a gateway assigns":  {func(in *policy.Input) { in.Tiers[0].Generation, in.Tiers[0].Spec.Priority = 2, v1alpha1.PriorityLow }, []policy.Object{free}, []policy.Object{edge}},
		"a quota that is another object": {func(in *policy.Input) { in.Quotas[0].UID = "two" }, []policy.Object{quota}, nil},
		"a plan that is another object":  {func(in *policy.Input) { in.Tiers[0].UID = "two" }, []policy.Object{free}, nil},
		"a plan that is gone":            {func(in *policy.Input) { in.Tiers = nil }, nil, []policy.Object{quota, edge}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var compiler policy.Compiler
			compiled := func(change func(*policy.Input)) *compilation {
				in := life("one").writes(1, 7, 7)
				in.Tiers[0].Generation = 1
				change(&in)
				table, verdicts := compiler.Compile(in)
				return &compilation{table: table, verdicts: verdicts}
			}
			before := compiled(func(*policy.Input) {})
			edited, other := changes(before, compiled(tc.change))
			if diff := cmp.Diff(tc.edited, edited); diff != "" {
				t.Errorf("edited (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.other, other); diff != "" {
				t.Errorf("other (-want +got):\n%s", diff)
			}
		})
	}
}

func TestANoteThatComesOrGoesIsLookedAt(t *testing.T) {
	t.Parallel()
	bare, noted := compiled(policy.Verdict{Object: free}), compiled(policy.Verdict{Object: free})
	noted.notes = map[policy.Object][]policy.Note{free: {{Object: free, Message: "Nobody waits."}}}
	for _, step := range [][2]*compilation{{bare, noted}, {noted, bare}} {
		if _, other := changes(step[0], step[1]); len(other) != 1 {
			t.Errorf("looked at is %v, want the plan", other)
		}
	}
	if _, other := changes(noted, noted); len(other) != 0 {
		t.Errorf("looked at is %v, want nothing", other)
	}
}
