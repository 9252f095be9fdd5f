package controllers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestAReportFits: however much there is to tell, an object of Kubernetes takes it, and it says whether that was all.
func TestAReportFits(t *testing.T) {
	t.Parallel()
	fleets := func(n int, words string) map[policy.Name]Fleet {
		all := map[policy.Name]Fleet{}
		for i := range n {
			all[policy.Name{Namespace: "a-namespace-of-some-length", Name: fmt.Sprintf("gateway-%d", i)}] = Fleet{Connected: 2, Current: 2, Mark: 1, Rejected: words}
		}
		return all
	}
	refusals := func(n int) map[policy.Object]string {
		all := map[policy.Object]string{}
		for i := range n {
			all[policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team", Name: fmt.Sprintf("q%03d", i)}}] = strings.Repeat("w", 1000)
		}
		return all
	}
	for name, tc := range map[string]struct {
		gateways map[policy.Name]Fleet
		refused  map[policy.Object]string
		cut      bool
	}{
		"little":                  {fleets(3, ""), refusals(3), false},
		"many gateways":           {fleets(5000, ""), nil, true},
		"long words":              {fleets(500, strings.Repeat("ü", 1000)), nil, false},
		"many gateways, rejected": {fleets(5000, strings.Repeat("ü", 1000)), refusals(5000), true},
		"many refusals":           {nil, refusals(maxRefused + 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := newReport(&Acknowledged{Gateways: tc.gateways, Services: Services{Connected: 1, Refused: tc.refused}}, newTables(clock.RealClock{}).progressAt)
			text, err := whole.text()
			if err != nil || len(text) > maxReport {
				t.Fatalf("it has %d bytes (%v), want at most %d", len(text), err, maxReport)
			}
			var told report
			if err := json.Unmarshal(text, &told); err != nil || told.Cut != tc.cut {
				t.Errorf("it is cut: %t (%v), want %t", told.Cut, err, tc.cut)
			}
			if len(whole.Services.Refused) != len(tc.refused) || len(whole.Gateways) != len(tc.gateways) {
				t.Error("what this replica knows itself was cut, too")
			}
		})
	}
}

// TestNothingIsSaidOfWhatACutReportMayHide: not that it is in force, and not that nobody is there.
func TestNothingIsSaidOfWhatACutReportMayHide(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]report{
		"a report that was cut":     {Services: reportedServices{Connected: 1, Seen: progress{policy.KindQuota: 9}}, Cut: true},
		"a refusal of everything":   {Services: reportedServices{Connected: 1, Seen: progress{policy.KindQuota: 9}, Refused: []reportedRefusal{{Words: "no"}}}},
		"another refusal, and this": {Services: reportedServices{Connected: 1, Refused: []reportedRefusal{{Kind: policy.KindQuota, Name: "x", Words: "no"}}}, Cut: true},
	} {
		d := join(map[string]report{"one": r})
		d.unheard = gone
		for _, o := range []policy.Object{quota, edge} {
			observed := observation{verdict: policy.Verdict{Object: o, Generation: 1}, since: 1}
			if c := meta.FindStatusCondition(observed.conditions(d), v1alpha1.ConditionProgrammed); c.Reason != v1alpha1.ReasonPending {
				t.Errorf("%s: %s is %s, want it Pending", name, o, c.Reason)
			}
		}
	}
}

// TestADeafReplicaTakesNobodyForDead: it hears itself through the same watch as the others.
func TestADeafReplicaTakesNobodyForDead(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	r := &replicas{opts: &Options{Identity: "me", LeaseDuration: 15 * time.Second}, own: heard{at: start}}
	lease := func(renewed time.Time) []coordinationv1.Lease {
		at := metav1.NewMicroTime(renewed)
		return []coordinationv1.Lease{
			{ObjectMeta: metav1.ObjectMeta{Name: "tierkeeper-operator-other"}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}},
			{ObjectMeta: metav1.ObjectMeta{Name: r.leaseName()}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}},
		}
	}
	for _, step := range []struct {
		after, renewed time.Duration
		want           bool
	}{{5 * time.Second, 5 * time.Second, false}, {19 * time.Second, 5 * time.Second, false}, {40 * time.Second, 5 * time.Second, true}, {41 * time.Second, 40 * time.Second, false}} {
		if got := r.deaf(lease(start.Add(step.renewed)), start.Add(step.after)); got != step.want {
			t.Errorf("after %s, its lease renewed at %s, it is deaf: %t, want %t", step.after, step.renewed, got, step.want)
		}
	}
	if r.deaf(nil, start.Add(time.Hour)) != true {
		t.Error("a replica whose lease is not there hears")
	}
}
