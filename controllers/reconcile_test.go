package controllers

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A press publishes what a compiler makes, and keeps it.
type press struct {
	Publisher

	all   []Publication
	fails error
}

func (p *press) Publish(_ context.Context, n Publication) error {
	p.all = append(p.all, n)
	return p.fails
}

// newLoop compiles a cluster that holds what is written, in which a quota goes on by its status.
func newLoop(p *press, list func(client.ObjectList) error) *compiler {
	in := life("one").isRefused(2)
	remembers(&in, life("one").writes(1, 7, 7))
	cluster := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(in.Gateways[0]).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, all client.ObjectList, opts ...client.ListOption) error {
			if err := list(all); err != nil {
				return err
			}
			return c.List(ctx, all, opts...)
		},
	}).Build()
	o := &Options{Publisher: p, Clock: clock.RealClock{}}
	labels := newUnlabelled(cluster, o.Clock, func() {})
	g := newGatherer(cluster, labels, nil)
	g.note(in.Quotas[0], true)
	return &compiler{opts: o, tables: newTables(o.Clock), contents: contents{api: cluster}, labels: labels, gatherer: g}
}

func listed(client.ObjectList) error { return nil }

func TestACompilationIsPublishedAndRemembered(t *testing.T) {
	t.Parallel()
	p := &press{}
	c := newLoop(p, listed)
	if c.ready() == nil {
		t.Error("it is ready before anything is published")
	}
	var before, now *compilation
	c.compiled = func(b, n *compilation) { before, now = b, n }
	for mark := uint64(1); mark <= 2; mark++ {
		last := c.tables.newest()
		result, err := c.Reconcile(t.Context(), theTable)
		if err != nil || result != (ctrl.Result{}) {
			t.Errorf("it comes to %v, %v", result, err)
		}
		n := p.all[len(p.all)-1]
		if len(p.all) != int(mark) || n.Mark != mark || now.mark != mark || n.Table != now.table || before != last || c.tables.newest() != now {
			t.Errorf("compilation %d is published as %d, after %d others", mark, n.Mark, len(p.all)-1)
		}
		if diff := cmp.Diff([]policy.Name{edge.Name}, n.Gateways); diff != "" {
			t.Errorf("gateways that are there (-want +got):\n%s", diff)
		}
		r := replica{table: n.Table}
		r.want(t, 7, 7)
	}
	if err := c.ready(); err != nil {
		t.Error(err)
	}
}

// TestWhatCannotBeToldIsTriedAgain: what of it could be told is in force, and status says so.
func TestWhatCannotBeToldIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := &press{fails: errors.New("it cannot be built")}
	c := newLoop(p, listed)
	if result, err := c.Reconcile(t.Context(), theTable); err != nil || result.RequeueAfter != retryAfter {
		t.Errorf("it comes to %v, %v, want it after %s", result, err, retryAfter)
	}
	if c.tables.newest() == nil {
		t.Error("what was compiled is forgotten")
	}
}

// TestNothingIsPublishedOfHalfACluster: less than all would take limits away.
func TestNothingIsPublishedOfHalfACluster(t *testing.T) {
	t.Parallel()
	p := &press{}
	c := newLoop(p, func(all client.ObjectList) error {
		if _, users := all.(*v1alpha1.UserQuotaList); users {
			return errors.New("the cache is closed")
		}
		return nil
	})
	if _, err := c.Reconcile(t.Context(), theTable); err == nil || len(p.all) != 0 || c.tables.newest() != nil {
		t.Errorf("%d tables are published, error %v", len(p.all), err)
	}
}

// TestARefusalIsCompiledOnce: followers go by what the leader has just said, and by what it says anew.
func TestARefusalIsCompiledOnce(t *testing.T) {
	t.Parallel()
	quotaWith := func(refused bool, last int64) *v1alpha1.ApiKeyQuota {
		q := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Name: "app", UID: "one", Generation: 3}}
		status := metav1.ConditionTrue
		if refused {
			status = metav1.ConditionFalse
		}
		q.Status.Conditions = []metav1.Condition{{Type: accepted, Status: status, ObservedGeneration: 3, LastTransitionTime: metav1.NewTime(time.Unix(1, 0))}}
		if last != 0 {
			q.Status.LastAccepted = &v1alpha1.LastAccepted{Generation: last}
		}
		return q
	}
	for name, tc := range map[string]struct {
		before, now *v1alpha1.ApiKeyQuota
		want        bool
	}{
		"it is refused now":              {quotaWith(false, 2), quotaWith(true, 2), true},
		"it goes on by something now":    {quotaWith(true, 0), quotaWith(true, 2), true},
		"it goes on by something else":   {quotaWith(true, 1), quotaWith(true, 2), true},
		"it is refused as before":        {quotaWith(true, 2), quotaWith(true, 2), false},
		"it goes on by nothing any more": {quotaWith(true, 2), quotaWith(true, 0), false},
		"it is accepted now":             {quotaWith(true, 2), quotaWith(false, 3), false},
	} {
		if got := says(tc.before, tc.now); got != tc.want {
			t.Errorf("%s: it is compiled: %t, want %t", name, got, tc.want)
		}
	}
}
