package controllers

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

var (
	quota = policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team-a", Name: "app"}}
	edge  = policy.Object{Kind: policy.KindGateway, Name: policy.Name{Namespace: "edge", Name: "main"}}
)

// plane is one in which everybody has seen the resource versions.
func plane(quotas, gateways uint64) *dataPlane {
	return &dataPlane{
		services: enforcers{connected: 2, seen: progress{policy.KindQuota: quotas}, presence: present},
		refused:  map[policy.Object]string{},
		gateways: map[policy.Name]enforcers{edge.Name: {connected: 1, seen: progress{policy.KindGateway: gateways}, presence: present}},
	}
}

func TestProgrammed(t *testing.T) {
	t.Parallel()
	had := []metav1.Condition{{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue, ObservedGeneration: 3}}
	hadFormer := []metav1.Condition{{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue, ObservedGeneration: 2}}
	said := func(reason string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse, Reason: reason, Message: "words", ObservedGeneration: 3}}
	}
	missing := []policy.Problem{{Reason: v1alpha1.ReasonTierNotFound, Field: "spec.tierRef.name", Message: "There is no accepted RateLimitTier gone."}}
	for name, tc := range map[string]struct {
		object   policy.Object
		problems []policy.Problem
		goesOn   bool
		before   []metav1.Condition
		plane    func(*dataPlane)
		want     string
	}{
		"everybody has it":                                {object: quota, want: v1alpha1.ReasonProgrammed},
		"a gateway whose Envoys have it":                  {object: edge, want: v1alpha1.ReasonProgrammed},
		"somebody has not":                                {object: quota, plane: func(d *dataPlane) { d.services.seen[policy.KindQuota] = 9 }, want: v1alpha1.ReasonPending},
		"progress of other kinds counts for nothing":      {object: edge, plane: func(d *dataPlane) { d.gateways[edge.Name].seen[policy.KindGateway] = 9 }, want: v1alpha1.ReasonPending},
		"who joins changes nothing":                       {object: quota, before: had, plane: func(d *dataPlane) { d.services.seen[policy.KindQuota] = 0 }, want: v1alpha1.ReasonProgrammed},
		"a new generation is pending":                     {object: quota, before: hadFormer, plane: func(d *dataPlane) { d.services.seen[policy.KindQuota] = 9 }, want: v1alpha1.ReasonPending},
		"nobody is there":                                 {object: quota, before: had, plane: func(d *dataPlane) { d.services = enforcers{presence: gone} }, want: v1alpha1.ReasonNoDataPlane},
		"nobody is there for a moment":                    {object: quota, before: had, plane: func(d *dataPlane) { d.services = enforcers{presence: awaited} }, want: v1alpha1.ReasonProgrammed},
		"nobody is there yet":                             {object: quota, plane: func(d *dataPlane) { d.services = enforcers{presence: awaited} }, want: v1alpha1.ReasonPending},
		"no Envoy was ever heard of":                      {object: edge, plane: func(d *dataPlane) { clear(d.gateways); d.unheard = gone }, want: v1alpha1.ReasonNoDataPlane},
		"no Envoy was heard of since the start":           {object: edge, before: had, plane: func(d *dataPlane) { clear(d.gateways); d.unheard = awaited }, want: v1alpha1.ReasonProgrammed},
		"an Envoy rejects":                                {object: edge, before: had, plane: func(d *dataPlane) { reject(d, "cannot bind") }, want: v1alpha1.ReasonEnvoyRejected},
		"an Envoy rejects something else":                 {object: quota, plane: func(d *dataPlane) { reject(d, "cannot bind") }, want: v1alpha1.ReasonProgrammed},
		"a service refuses":                               {object: quota, before: had, plane: func(d *dataPlane) { d.refused[quota] = "unknown metric" }, want: v1alpha1.ReasonServiceRejected},
		"a service refuses another object":                {object: edge, plane: func(d *dataPlane) { d.refused[quota] = "unknown metric" }, want: v1alpha1.ReasonProgrammed},
		"a refusal stands until somebody has it in force": {object: edge, before: said(v1alpha1.ReasonEnvoyRejected), plane: func(d *dataPlane) { d.gateways[edge.Name].seen[policy.KindGateway] = 9 }, want: v1alpha1.ReasonEnvoyRejected},
		"a refusal stands over a start":                   {object: edge, before: said(v1alpha1.ReasonEnvoyRejected), plane: func(d *dataPlane) { clear(d.gateways); d.unheard = awaited }, want: v1alpha1.ReasonEnvoyRejected},
		"a refusal ends with an acknowledgement":          {object: edge, before: said(v1alpha1.ReasonEnvoyRejected), want: v1alpha1.ReasonProgrammed},
		"nobody was there before a start":                 {object: edge, before: said(v1alpha1.ReasonNoDataPlane), plane: func(d *dataPlane) { clear(d.gateways); d.unheard = awaited }, want: v1alpha1.ReasonNoDataPlane},
		"somebody has come":                               {object: edge, before: said(v1alpha1.ReasonNoDataPlane), plane: func(d *dataPlane) { d.gateways[edge.Name].seen[policy.KindGateway] = 9 }, want: v1alpha1.ReasonPending},
		"it is not accepted":                              {object: quota, problems: missing, want: v1alpha1.ReasonNotAccepted},
		"it is not accepted and goes on":                  {object: quota, problems: missing, goesOn: true, want: v1alpha1.ReasonNotAccepted},
		"another version tells what cannot be read":       {object: quota, plane: func(d *dataPlane) { d.unreadable = []string{"x, version 9"} }, want: v1alpha1.ReasonPending},
		"it had it before another version told nothing":   {object: quota, before: had, plane: func(d *dataPlane) { d.unreadable = []string{"x, version 9"} }, want: v1alpha1.ReasonProgrammed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := plane(10, 10)
			if tc.plane != nil {
				tc.plane(d)
			}
			o := observation{verdict: policy.Verdict{Object: tc.object, Generation: 3, Problems: tc.problems}, goesOn: tc.goesOn, since: 10, before: tc.before}
			all := o.conditions(d)
			c := meta.FindStatusCondition(all, v1alpha1.ConditionProgrammed)
			if c.Reason != tc.want || (c.Status == metav1.ConditionTrue) != (tc.want == v1alpha1.ReasonProgrammed) || c.Message == "" || c.ObservedGeneration != 3 {
				t.Errorf("Programmed is %+v, want reason %s", c, tc.want)
			}
			if ready := meta.IsStatusConditionTrue(all, v1alpha1.ConditionReady); ready != (tc.want == v1alpha1.ReasonProgrammed) {
				t.Errorf("Ready is %t beside %s", ready, tc.want)
			}
		})
	}
}

// TestWhyEnvoysWereNotToldIsSaid through the report of the replica that could not tell them, and is no rejection.
func TestWhyEnvoysWereNotToldIsSaid(t *testing.T) {
	t.Parallel()
	const why = "A Secret that the gateway names could not be read yet; it is tried again."
	r := newReport(&Acknowledged{Gateways: map[policy.Name]Fleet{edge.Name: {Connected: 1, Mark: 1, Untold: why}}}, func(uint64) progress { return progress{policy.KindGateway: 9} })
	o := observation{verdict: policy.Verdict{Object: edge, Generation: 3}, since: 10}
	c := meta.FindStatusCondition(o.conditions(join(map[string]report{"a": r})), v1alpha1.ConditionProgrammed)
	if c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonPending || c.Message != why {
		t.Errorf("Programmed is %+v, want Pending with %q", c, why)
	}
}

func reject(d *dataPlane, words string) {
	f := d.gateways[edge.Name]
	f.rejected = words
	d.gateways[edge.Name] = f
}

func TestConditionsSayWhatIsWrongAndWhere(t *testing.T) {
	t.Parallel()
	o := observation{verdict: policy.Verdict{Object: quota, Generation: 1, Problems: []policy.Problem{
		{Reason: v1alpha1.ReasonSecretNotFound, Field: "spec.keys[name=main].secretKeyRef.name", Message: "There is no Secret gone in namespace team-a."},
		{Reason: v1alpha1.ReasonTierNotFound, Field: "spec.tierRef.name", Message: "There is no accepted RateLimitTier gone."},
	}}}
	const want = "spec.keys[name=main].secretKeyRef.name: There is no Secret gone in namespace team-a. spec.tierRef.name: There is no accepted RateLimitTier gone."
	for _, c := range o.conditions(plane(1, 1)) {
		if c.Type != v1alpha1.ConditionProgrammed && c.Message != want {
			t.Errorf("%s says %q, want %q", c.Type, c.Message, want)
		}
	}
	o.verdict.Problems[0].Message = strings.Repeat("ü", maxMessage)
	if got := o.conditions(plane(1, 1))[0].Message; len(got) > maxMessage || !strings.HasSuffix(got, "ü…") {
		t.Errorf("a long message has %d bytes, want at most %d, and whole characters", len(got), maxMessage)
	}
}

func TestATransitionIsAChangeOfStatus(t *testing.T) {
	t.Parallel()
	early, late := metav1.NewTime(time.Unix(100, 0)), metav1.NewTime(time.Unix(200, 0))
	before := []metav1.Condition{
		{Type: "Same", Status: metav1.ConditionTrue, Reason: "One", LastTransitionTime: early},
		{Type: "Other", Status: metav1.ConditionTrue, LastTransitionTime: early},
	}
	all := []metav1.Condition{{Type: "Same", Status: metav1.ConditionTrue, Reason: "Two"}, {Type: "Other", Status: metav1.ConditionFalse}, {Type: "New"}}
	timed(all, before, late)
	for i, want := range []metav1.Time{early, late, late} {
		if !all[i].LastTransitionTime.Equal(&want) {
			t.Errorf("%s changed at %s, want %s", all[i].Type, all[i].LastTransitionTime, want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	d := join(map[string]report{
		"a": {
			Services: reportedServices{Connected: 2, Seen: progress{policy.KindQuota: 7, policy.KindTier: 3}},
			Gateways: map[string]reportedFleet{"edge/main": {Connected: 1, Current: 1, Seen: 5}, "edge/other": {Rejected: "it cannot be built"}},
		},
		"b": {
			Services: reportedServices{Connected: 1, Seen: progress{policy.KindQuota: 6, policy.KindTier: 4}, Refused: []reportedRefusal{{policy.KindQuota, "team-a", "app", "no"}}},
			Gateways: map[string]reportedFleet{"edge/main": {Connected: 2, Current: 1, Seen: 4, Rejected: "cannot bind"}},
		},
		"c": {}, // Nobody is connected to it.
	})
	want := &dataPlane{
		services: enforcers{connected: 3, seen: progress{policy.KindQuota: 6, policy.KindTier: 3}, presence: present},
		refused:  map[policy.Object]string{quota: "no"},
		gateways: map[policy.Name]enforcers{
			edge.Name:                          {connected: 3, current: 2, seen: progress{policy.KindGateway: 4}, rejected: "cannot bind", presence: present},
			{Namespace: "edge", Name: "other"}: {rejected: "it cannot be built"},
		},
	}
	if diff := cmp.Diff(want, d, cmp.AllowUnexported(dataPlane{}, enforcers{})); diff != "" {
		t.Errorf("joined (-want +got):\n%s", diff)
	}
}
