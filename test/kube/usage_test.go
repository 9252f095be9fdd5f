package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/election"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
	"github.com/tierkeeper/tierkeeper/usage/kube"
)

const team = "usage-team"

// A replica of the service writes usage while it is the leader.
type replica struct {
	*kube.Objects

	name   string
	dead   atomic.Bool // the API server cannot be reached any more
	writes atomic.Int64
	stop   context.CancelFunc
	done   chan error
}

// Write counts what is written.
func (r *replica) Write(ctx context.Context, o policy.Object, s usage.Status) error {
	err := r.Objects.Write(ctx, o, s)
	if err == nil {
		r.writes.Add(1)
	}
	return err
}

// RoundTrip is that of a client of the replica.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func startReplica(t *testing.T, name string, source usage.Source) *replica {
	t.Helper()
	r := &replica{name: name, done: make(chan error, 1)}
	config := rest.CopyConfig(server)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			if r.dead.Load() {
				return nil, errors.New("the replica is dead")
			}
			return next.RoundTrip(req)
		})
	})
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	var err error
	if r.Objects, err = kube.NewObjects(ctx, config, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	vote := election.Election{
		Config: config, Namespace: team, Name: "tierkeeper-usage", Identity: name, Log: slog.New(slog.DiscardHandler),
		Lasts: 15 * time.Second, // An API server that is busy must not cost the lease.
	}
	go func() { r.done <- vote.Lead(ctx, usage.NewReporter(source, r, r).Run) }()
	return r
}

// await waits until it is so.
func awaitTrue(t *testing.T, what string, so func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return so(), nil })
	if err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// limited is the objects of the test, and a table that is made of them.
func limited(t *testing.T, c client.Client) (*v1alpha1.ApiKeyQuota, *v1alpha1.UserQuota, *policy.Table) {
	t.Helper()
	tier := v1alpha1.RateLimitTier{ObjectMeta: metav1.ObjectMeta{Name: "usage-plan"}}
	tier.Spec.Limits = monthly(10)
	q := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "alice"}}
	q.Spec.TierRef.Name, q.Spec.User = tier.Name, "ann"
	q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte("sk-alice")).String()}}
	u := &v1alpha1.UserQuota{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "for-ann"}}
	u.Spec.User, u.Spec.Limits = "ann", monthly(100)
	g := v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "edge"}}
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	table, _ := policy.Compile(policy.Input{
		Tiers: []*v1alpha1.RateLimitTier{&tier}, Quotas: []*v1alpha1.ApiKeyQuota{q}, Users: []*v1alpha1.UserQuota{u}, Gateways: []*v1alpha1.QuotaGateway{&g},
	})
	create(t, c, parse(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+team+"}"))
	create(t, c, q)
	create(t, c, u)
	return q, u, table
}

func monthly(most int64) *v1alpha1.Limits {
	return &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMonth, Max: new(most)}}}
}

func create(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// connectTyped is connect for objects that are read as what they are.
func connectTyped(t *testing.T) client.Client {
	t.Helper()
	connect(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, eventsv1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(server, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// accept writes the conditions of the object that are the operator's.
func accept(t *testing.T, c client.Client, q *v1alpha1.ApiKeyQuota) {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{
		"observedGeneration": q.Generation,
		"conditions": []any{map[string]any{
			"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
		}},
	}}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(policy.KindQuota))
	u.SetNamespace(q.Namespace)
	u.SetName(q.Name)
	if err := c.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("tierkeeper-operator")); err != nil {
		t.Fatal(err)
	}
}

// One of two replicas writes what both have counted, beside the operator, and the other goes on when it dies.
func TestUsageGetsIntoTheObjects(t *testing.T) {
	t.Parallel()
	c := connectTyped(t)
	quota, user, table := limited(t, c)
	accept(t, c, quota)
	store := memory.New()
	var limiters []*ratelimit.Limiter
	for range 2 {
		l := ratelimit.New(store, []byte("secret"))
		l.SetTable(table)
		limiters = append(limiters, l)
	}
	use := func(l *ratelimit.Limiter, requests int) {
		t.Helper()
		for range requests {
			r := &descriptor.Reserve{
				Credentials: []descriptor.Credential{descriptor.NewCredential("x-api-key", "", "sk-alice")}, Client: "192.0.2.1",
				Gateway: team + "/edge", Resource: "chat", Model: "m",
			}
			if d, err := l.Reserve(t.Context(), r); err != nil || d.Status != 0 {
				t.Fatalf("status %d, error %v", d.Status, err)
			}
		}
	}
	use(limiters[0], 4)
	use(limiters[1], 4)

	a, b := startReplica(t, "a", limiters[0]), startReplica(t, "b", limiters[1])
	read := func(o client.Object) client.Object {
		t.Helper()
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	usedOf := func(u *v1alpha1.Usage) int64 {
		if u == nil {
			return 0
		}
		return *u.Highest.Used
	}
	awaitTrue(t, "8 requests are told", func() bool {
		read(quota)
		read(user)
		return usedOf(quota.Status.Usage) == 8 && usedOf(user.Status.Usage) == 8
	})
	wantConditions(t, quota, map[string]string{
		"Accepted": "True Accepted of 0 by tierkeeper-operator", "ApproachingLimit": "True ThresholdReached of 1 by tierkeeper-ratelimit",
		"Exhausted": "False WithinLimits of 1 by tierkeeper-ratelimit",
	})
	if quota.Status.ObservedGeneration != quota.Generation {
		t.Errorf("the generation that the operator has observed is %d, want %d", quota.Status.ObservedGeneration, quota.Generation)
	}
	since := meta.FindStatusCondition(quota.Status.Conditions, "ApproachingLimit").LastTransitionTime

	awaitTrue(t, "two objects are written", func() bool { return a.writes.Load()+b.writes.Load() == 2 })
	leader, other := a, b
	if b.writes.Load() > 0 {
		leader, other = b, a
	}
	if other.writes.Load() > 0 {
		t.Error("both replicas have written")
	}
	leader.dead.Store(true)
	quota.Spec.DesiredState = v1alpha1.DesiredStateActive
	if err := c.Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	use(limiters[0], 2)
	awaitTrue(t, "the other replica tells that 10 requests are used", func() bool {
		return usedOf(read(quota).(*v1alpha1.ApiKeyQuota).Status.Usage) == 10
	})
	wantConditions(t, quota, map[string]string{
		"Accepted": "True Accepted of 0 by tierkeeper-operator", "ApproachingLimit": "True ThresholdReached of 2 by tierkeeper-ratelimit",
		"Exhausted": "True LimitReached of 2 by tierkeeper-ratelimit",
	})
	if got := meta.FindStatusCondition(quota.Status.Conditions, "ApproachingLimit").LastTransitionTime; !got.Equal(&since) {
		t.Errorf("ApproachingLimit is True since %v, want %v, when it became so", got, since)
	}
	awaitTrue(t, "the other replica knows that it has written", func() bool { return other.writes.Load() > 0 })
	awaitTrue(t, "two thresholds are told by events", func() bool { return len(usageEvents(t, c)) >= 2 })
	want := []string{
		"Warning alice: The use of the limit Key/Requests/Month has reached 100% of its max, 10.",
		"Warning alice: The use of the limit Key/Requests/Month has reached 80% of its max, 10.",
	}
	if diff := cmp.Diff(want, usageEvents(t, c)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}

	if err := c.Delete(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	objects, err := kube.NewObjects(t.Context(), server, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := objects.Write(t.Context(), policy.Object{Kind: policy.KindUser, Name: policy.Name{Namespace: team, Name: "for-ann"}}, usage.Status{}); !errors.Is(err, usage.ErrGone) {
		t.Errorf("writing to what is gone: %v, want ErrGone", err)
	}
	for _, r := range []*replica{a, b} {
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "tierkeeper-usage"}}
	if read(lease); *lease.Spec.HolderIdentity != "" {
		t.Errorf("%q still leads after it has stopped", *lease.Spec.HolderIdentity)
	}
}

// wantConditions compares conditions by type: their status, reason and observed generation, and who owns them.
func wantConditions(t *testing.T, q *v1alpha1.ApiKeyQuota, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, c := range q.Status.Conditions {
		var owners []string
		for _, m := range q.ManagedFields {
			if m.Subresource == "status" && slices.Contains(ownedConditions(t, m), c.Type) {
				owners = append(owners, m.Manager)
			}
		}
		got[c.Type] = fmt.Sprintf("%s %s of %d by %s", c.Status, c.Reason, c.ObservedGeneration, owners[0])
		if len(owners) != 1 {
			t.Errorf("%s is owned by %v", c.Type, owners)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

// events lists those of the quota in order of their words, as often as they happened.
func usageEvents(t *testing.T, c client.Client) (told []string) {
	t.Helper()
	var list eventsv1.EventList
	if err := c.List(t.Context(), &list, client.InNamespace(team)); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Series != nil {
			t.Errorf("it happened %d times: %s", e.Series.Count, e.Note)
		}
		if e.Regarding.UID != "" && e.Reason == "ThresholdReached" {
			told = append(told, fmt.Sprintf("%s %s: %s", e.Type, e.Regarding.Name, e.Note))
		}
	}
	slices.Sort(told)
	return told
}

// ownedConditions lists the types of the conditions that a manager has applied.
func ownedConditions(t *testing.T, m metav1.ManagedFieldsEntry) (types []string) {
	t.Helper()
	var fields struct {
		Status struct {
			Conditions map[string]json.RawMessage `json:"f:conditions"`
		} `json:"f:status"`
	}
	if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for key := range fields.Status.Conditions {
		var by struct{ Type string }
		if err := json.Unmarshal([]byte(strings.TrimPrefix(key, "k:")), &by); err == nil {
			types = append(types, by.Type)
		}
	}
	return types
}
