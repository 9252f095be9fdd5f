package controllers

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// elected writes the status of the objects of in, which all services have in force, until ctx ends.
func elected(ctx context.Context, in policy.Input) client.Client {
	c := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(in.Tiers[0], in.Quotas[0]).
		WithStatusSubresource(&v1alpha1.RateLimitTier{}, &v1alpha1.ApiKeyQuota{}).Build()
	in.Gateways = nil
	table, verdicts := policy.Compile(in)
	tables := newTables(clock.RealClock{})
	tables.set(&compilation{table: table, verdicts: verdicts})
	s := &status{
		client: c, events: events.NewFakeRecorder(10), opts: &Options{Clock: clock.RealClock{}}, tables: tables,
		replicas: &replicas{now: plane(1000, 1000), poked: make(chan struct{}, 1)}, unlooked: func(policy.Name) bool { return false },
		limiter: rate.NewLimiter(rate.Inf, 1),
		since:   map[policy.Object]generation{}, written: map[policy.Object]uint64{}, open: map[policy.Object]bool{},
	}
	go s.run(ctx)
	return c
}

// TestAQuotaSaysThatItHasExpired: that its time has passed nobody writes.
func TestAQuotaSaysThatItHasExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const lasts = time.Hour
		in := written(1, 7)
		end := metav1.NewTime(clock.RealClock{}.Now().Add(lasts))
		in.Quotas[0].Spec.ExpirationTime = &end
		c := elected(ctx, in)
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			var q v1alpha1.ApiKeyQuota
			if err := c.Get(ctx, client.ObjectKey{Namespace: quota.Namespace, Name: quota.Name.Name}, &q); err != nil {
				t.Fatal(err)
			}
			ready := meta.FindStatusCondition(q.Status.Conditions, v1alpha1.ConditionReady)
			if ready == nil || ready.Status != metav1.ConditionTrue || ready.Message != want {
				t.Errorf("Ready is %+v, want True and %q", ready, want)
			}
		}
		check("The object is in force as written.")
		<-time.After(lasts - time.Second)
		check("The object is in force as written.")
		<-time.After(time.Second)
		check("The object is in force as written. This ApiKeyQuota has expired (spec.expirationTime), so requests with its keys are answered 401.")
	})
}

// TestADeletedQuotaIsForgottenBeforeItsTime: a time can be years away, and anybody may make and delete quotas until then.
func TestADeletedQuotaIsForgottenBeforeItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &status{queue: newQueue(clock.RealClock{})}
		defer s.queue.ShutDown()
		now := clock.RealClock{}.Now()
		end := metav1.NewTime(now.AddDate(10, 0, 0))
		s.lookAt(quota, &end, now)
		after(looksApart)
		if got := s.queue.Len(); got != 1 {
			t.Errorf("after %s %d objects are looked at, want the quota, so that it is seen to be gone", looksApart, got)
		}
	})
}
