package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// judged is what the operator writes of a generation.
func judgedOnce(generation int64, reason, message string) v1alpha1.ObjectStatus {
	status := metav1.ConditionFalse
	if reason == v1alpha1.ReasonAccepted {
		status = metav1.ConditionTrue
	}
	return v1alpha1.ObjectStatus{ObservedGeneration: generation, Conditions: []metav1.Condition{{
		Type: v1alpha1.ConditionAccepted, Status: status, ObservedGeneration: generation, Reason: reason, Message: message,
	}}}
}

// seenIn is what somebody sees of team-a in a cluster with the objects of in. Without labels they may list no namespaces.
func seenIn(t *testing.T, in *policy.Input, labels bool) *Seen {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Labels: map[string]string{"plan": "free"}}},
		in.Tiers[0], in.Quotas[0], in.Gateways[0],
	)
	if !labels {
		builder = builder.WithInterceptorFuncs(interceptor.Funcs{List: forbidNamespaces})
	}
	seen, err := Once(t.Context(), builder.Build(), "team-a")
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func forbidNamespaces(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*corev1.NamespaceList); ok {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "", errors.New("no role permits it"))
	}
	return c.List(ctx, list, opts...)
}

// forSome is written, on a plan and before a gateway for namespaces with a label.
func forSome(generation, limit int64) policy.Input {
	in := written(generation, limit)
	some := &metav1.LabelSelector{MatchLabels: map[string]string{"plan": "free"}}
	t, g := in.Tiers[0], in.Gateways[0]
	t.Generation, t.Status.ObjectStatus = 1, judgedOnce(1, v1alpha1.ReasonAccepted, "The object counts as written.")
	t.Spec.AllowedNamespaces = &v1alpha1.TierNamespaces{From: v1alpha1.TierNamespacesSelector, Selector: some}
	g.Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesSelector, Selector: some}}
	return in
}

// TestOnceGoesByStatus: whether a quota counts as written says the operator, however little may be read.
func TestOnceGoesByStatus(t *testing.T) {
	t.Parallel()
	accepted := judgedOnce(3, v1alpha1.ReasonAccepted, "The object counts as written.")
	notPermitted := judgedOnce(3, v1alpha1.ReasonTierNotPermitted, "spec.tierRef.name: It is not for you.")
	keyClaimed := judgedOnce(3, v1alpha1.ReasonKeyClaimed, "spec.keys[name=main]: It belongs to another.")
	const (
		gateway   = "QuotaGateway edge/main: whether it admits namespace team-a is not known, because you may not list namespaces; here it does"
		tier      = "RateLimitTier free: whether it admits namespace team-a is not known, because you may not list namespaces; here it does"
		notJudged = "ApiKeyQuota team-a/app: the operator has not judged generation 3 yet; this is what would hold"
		goesOn    = "ApiKeyQuota team-a/app: not accepted: KeyClaimed: spec.keys[name=main]: It belongs to another; it goes on as it was accepted last (generation 2)"
		goesOnOff = "ApiKeyQuota team-a/app: not accepted: TierNotPermitted: spec.tierRef.name: It is not for you; it goes on as it was accepted last (generation 2)"
	)
	for name, tc := range map[string]struct {
		status v1alpha1.ObjectStatus
		blind  bool
		last   bool // it was accepted before, with 7
		want   int64
		former bool // its tier holds as it was
		notes  []string
	}{
		"accepted":                            {status: accepted, want: 9},
		"accepted, labels hidden":             {status: accepted, blind: true, want: 9, notes: []string{gateway}},
		"not judged":                          {want: 9, notes: []string{notJudged}},
		"not judged, labels hidden":           {blind: true, want: 9, notes: []string{notJudged, tier, gateway}},
		"judged before it was edited":         {status: judgedOnce(2, v1alpha1.ReasonKeyClaimed, "It was."), last: true, want: 9, notes: []string{notJudged}},
		"refused":                             {status: keyClaimed},
		"refused, and it goes on":             {status: keyClaimed, last: true, want: 7, notes: []string{goesOn}},
		"not permitted, labels hidden":        {status: notPermitted, blind: true, notes: []string{gateway}},
		"not permitted goes on by its former": {status: notPermitted, blind: true, last: true, want: 7, former: true, notes: []string{goesOnOff, gateway}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := forSome(3, 9)
			in.Quotas[0].Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte("sk-app")).String()}}
			if tc.last {
				before := written(2, 7)
				before.Tiers[0].Spec.Priority = v1alpha1.PriorityLow
				kept(&before, false)
				in.Quotas[0].Status.LastAccepted = before.Quotas[0].Status.LastAccepted
			}
			in.Quotas[0].Status.ObjectStatus = tc.status
			seen := seenIn(t, &in, !tc.blind)
			table, _ := policy.Compile(seen.Input)
			var got int64
			former := false
			if c, _ := table.Quota(quota.Name); c.Holder != nil {
				got, former = table.Resolve(nil, c.Holder, "", "").Limits[0].Max, c.Holder.Priority == 1
			}
			if got != tc.want || former != tc.former {
				t.Errorf("it has a limit of %d, and a former tier: %t; want %d and %t", got, former, tc.want, tc.former)
			}
			if diff := cmp.Diff(tc.notes, seen.Notes[quota.Name]); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
			if _, refused := seen.Refused[quota.Name]; refused != (tc.want != 9) {
				t.Errorf("it is refused: %t", refused)
			}
			if g, found := table.Gateway("edge/main"); !found || !g.Admits("team-a") {
				t.Errorf("the gateway is there: %t, and does not admit the namespace", found)
			}
		})
	}
}

func TestOnceTellsOfAPlanThatIsNotJudged(t *testing.T) {
	t.Parallel()
	in := forSome(1, 9)
	in.Tiers[0].Generation = 2
	in.Quotas[0].Status.ObjectStatus = judgedOnce(1, v1alpha1.ReasonAccepted, "The object counts as written.")
	want := []string{"RateLimitTier free: the operator has not judged generation 2 yet; this is what would hold"}
	if diff := cmp.Diff(want, seenIn(t, &in, true).Notes[quota.Name]); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

// Without plans nothing can be said.
func TestOnceSaysWhatMayNotBeRead(t *testing.T) {
	t.Parallel()
	c := fake.NewClientBuilder().WithScheme(Scheme()).WithInterceptorFuncs(interceptor.Funcs{
		List: func(_ context.Context, _ client.WithWatch, _ client.ObjectList, _ ...client.ListOption) error {
			return apierrors.NewForbidden(schema.GroupResource{Group: "tierkeeper.io", Resource: "ratelimittiers"}, "", errors.New("no role permits it"))
		},
	}).Build()
	_, err := Once(t.Context(), c, "team-a")
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "reading the cluster: ratelimittiers.tierkeeper.io is forbidden") {
		t.Errorf("error is %v, want one that names ratelimittiers", err)
	}
}

// TestOnceTellsOfGatewaysThatMayNotBeListed: limits may hold there that it cannot know of.
func TestOnceTellsOfGatewaysThatMayNotBeListed(t *testing.T) {
	t.Parallel()
	in := forSome(1, 9)
	in.Quotas[0].Status.ObjectStatus = judgedOnce(1, v1alpha1.ReasonAccepted, "The object counts as written.")
	for name, tc := range map[string]struct {
		everywhere, here bool
		want             []string
	}{
		"all":               {everywhere: true, here: true},
		"of the namespace":  {here: true, want: []string{"QuotaGateways of other namespaces are left out, because you may not list them; which ModelLimits count there is not known"}},
		"not even of those": {want: []string{"QuotaGateways are left out, because you may not list them; which ModelLimits count there is not known"}},
	} {
		c := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(in.Tiers[0], in.Quotas[0]).WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				if _, ok := list.(*v1alpha1.QuotaGatewayList); ok && (len(opts) == 0 && !tc.everywhere || !tc.here) {
					return apierrors.NewForbidden(schema.GroupResource{Group: "tierkeeper.io", Resource: "quotagateways"}, "", errors.New("no role permits it"))
				}
				return c.List(ctx, list, opts...)
			},
		}).Build()
		seen, err := Once(t.Context(), c, "team-a")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, seen.Notes[quota.Name]); diff != "" {
			t.Errorf("%s may be listed: notes (-want +got):\n%s", name, diff)
		}
	}
}
