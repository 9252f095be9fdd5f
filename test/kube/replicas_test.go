package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// TestReplicas runs two operators, of which one writes status. What is connected to the other is told all the same, and counts.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	leader := startOperator(t, s, "operator-0", "--lease-duration", "10s")
	awaitLeader(t, s, "operator-0")
	follower := startOperator(t, s, "operator-1", "--lease-duration", "10s")

	s.Front.Remove(leader.Address)
	port, _ := startMain(t, s, startService(t, s, "ratelimit-0"), edited(1000), holder("edited", "key-edited"))
	awaitStatus(t, port, "key-edited", http.StatusOK)

	s.Front.Add(leader.Address)
	s.Front.Remove(follower.Address)
	other := freePort(t)
	apply(t, s, gateway("default", "other", other))
	startEnvoy(t, s, "default/other", "envoy-1", startService(t, s, "ratelimit-1"))
	awaitAllReady(t, s)
	awaitStatus(t, other, "key-edited", http.StatusOK)
	s.Front.Add(follower.Address)

	apply(t, s, edited(0))
	awaitStatus(t, port, "key-edited", http.StatusTooManyRequests)
	awaitStatus(t, other, "key-edited", http.StatusTooManyRequests)
	awaitAllReady(t, s)
	last := awaitLeader(t, s, "operator-0")

	kill(t, leader)
	apply(t, s, edited(1000))
	awaitStatus(t, port, "key-edited", http.StatusOK)
	awaitStatus(t, other, "key-edited", http.StatusOK)
	next := awaitLeader(t, s, "operator-1")
	awaitAllReady(t, s)
	t.Logf("the lease was renewed by one replica and acquired by the other %s later", next.Spec.AcquireTime.Sub(last.Spec.RenewTime.Time))
}

// TestRollout replaces every process, one after the other: operators, replicas of the rate-limit service, Envoys. No condition of
// any object changes for it.
func TestRollout(t *testing.T) {
	t.Parallel()
	const lease = 30 * time.Second
	s := newStack(t)
	operators := []*stack.Process{startOperator(t, s, "operator-0", "--lease-duration", lease.String())}
	awaitLeader(t, s, "operator-0")
	operators = append(operators, startOperator(t, s, "operator-1", "--lease-duration", lease.String()))
	services := []*stack.Process{startService(t, s, "ratelimit-0"), startService(t, s, "ratelimit-1")}
	port, envoy := startMain(t, s, services[0], edited(1000), holder("edited", "key-edited"))
	envoys := []*stack.Process{envoy, startEnvoy(t, s, "default/main", "envoy-1", services[1])}
	awaitEnvoys(t, s, 2)
	watched := record(t, s)

	for i, old := range operators {
		before := leaseOf(t, s)
		startOperator(t, s, fmt.Sprintf("operator-%d", i+2), "--lease-duration", lease.String())
		stop(t, old)
		after := awaitAnotherLeader(t, s, old.Name)
		// One that waits until the lease runs out comes at least its duration later.
		if took := after.Spec.AcquireTime.Sub(before.Spec.RenewTime.Time); i == 0 && took >= lease {
			t.Errorf("the lease was taken over %s after it was renewed; want it to be handed over at once", took)
		}
		awaitEnvoys(t, s, 2)
	}
	for _, old := range services {
		stop(t, old)
		startService(t, s, old.Name)
		awaitEnvoys(t, s, 2)
	}
	for i, old := range envoys {
		stop(t, old)
		awaitEnvoys(t, s, 1)
		startEnvoy(t, s, "default/main", fmt.Sprintf("envoy-%d", i), services[i])
		awaitEnvoys(t, s, 2)
	}
	watched.neverLeft(t, s)
	expectObeyed(t, s, port, 0, http.StatusTooManyRequests)
}

// leaseOf is the lease of the replica that writes status.
func leaseOf(t *testing.T, s *stack.Stack) *coordinationv1.Lease {
	t.Helper()
	lease, err := readLease(t, s)
	must(t, err)
	return lease
}

func readLease(t *testing.T, s *stack.Stack) (*coordinationv1.Lease, error) {
	t.Helper()
	lease := &coordinationv1.Lease{}
	err := s.Client.Get(t.Context(), types.NamespacedName{Namespace: stack.Namespace, Name: "tierkeeper-operator"}, lease)
	return lease, err //nolint:wrapcheck // Tests print it as it is.
}

// awaitLeader waits until a replica writes status.
func awaitLeader(t *testing.T, s *stack.Stack, identity string) (lease *coordinationv1.Lease) {
	t.Helper()
	await(t, identity+" writes status", func() (err error) {
		lease, err = readLease(t, s)
		if err == nil && holderOf(lease) != identity {
			err = fmt.Errorf("it is %q", holderOf(lease))
		}
		return err
	})
	return lease
}

// awaitAnotherLeader waits until a replica writes status that is not the one.
func awaitAnotherLeader(t *testing.T, s *stack.Stack, one string) (lease *coordinationv1.Lease) {
	t.Helper()
	await(t, "another replica than "+one+" writes status", func() error {
		if lease = leaseOf(t, s); holderOf(lease) == one || holderOf(lease) == "" {
			return errors.New("none does")
		}
		return nil
	})
	return lease
}

// awaitLeading waits until a replica shows that it writes status, and returns its identity. One that has died, or that could not renew its
// lease, may stand there for some time.
func awaitLeading(t *testing.T, s *stack.Stack) (identity string) {
	t.Helper()
	asked := time.Now()
	await(t, "a replica renews its lease", func() error {
		lease, err := readLease(t, s)
		if err != nil {
			return err
		}
		if identity = holderOf(lease); identity == "" || !lease.Spec.RenewTime.After(asked) {
			return fmt.Errorf("%q has renewed it at %s, and is asked since %s", identity, lease.Spec.RenewTime, asked)
		}
		return nil
	})
	return identity
}

func holderOf(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// awaitEnvoys waits until the status of the gateway of a load says how many Envoys serve it, all of them up to date.
func awaitEnvoys(t *testing.T, s *stack.Stack, want int32) {
	t.Helper()
	await(t, fmt.Sprintf("%d Envoys are connected", want), func() error {
		g := &v1alpha1.QuotaGateway{}
		if err := s.Client.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "main"}, g); err != nil {
			return err
		}
		if e := g.Status.Envoys; e == nil || *e.Connected != want || *e.Acknowledged != want {
			return fmt.Errorf("status says %+v", e)
		}
		return nil
	})
}
