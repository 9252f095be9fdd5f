package replicas_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// A pool asks those replicas whose health checks succeed, as Envoy does.
type pool struct {
	t  *testing.T
	mu sync.Mutex

	healthy []*replica
	next    int
	all     sync.WaitGroup
}

const (
	checkEvery = time.Second
	// unhealthy and healthy are how many checks in a row make a replica left out, or asked.
	unhealthy = 2
	healthy   = 1
)

// watch checks a replica until it has ended.
func (p *pool) watch(r *replica) {
	p.all.Go(func() {
		tick := time.NewTicker(checkEvery)
		defer tick.Stop()
		for in, row := false, 0; ; {
			if p.check(r) != in {
				row++
			} else {
				row = 0
			}
			if !in && row == healthy || in && row == unhealthy {
				in, row = !in, 0
				p.set(r, in)
			}
			select {
			case <-p.t.Context().Done():
				return
			case <-r.Ended():
				return
			case <-tick.C:
			}
		}
	})
}

func (p *pool) check(r *replica) bool {
	ctx, cancel := context.WithTimeout(p.t.Context(), checkEvery)
	defer cancel()
	answer, err := r.health.Check(ctx, &healthv1.HealthCheckRequest{})
	return err == nil && answer.GetStatus() == healthv1.HealthCheckResponse_SERVING
}

func (p *pool) set(r *replica, in bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var others []*replica
	for _, other := range p.healthy {
		if other != r {
			others = append(others, other)
		}
	}
	if in {
		others = append(others, r)
	}
	p.healthy = others
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.healthy)
}

func (p *pool) pick() *replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return p.healthy[p.next%len(p.healthy)]
}

// TestARollingRestartFailsNoRequest replaces every replica under load, each after a new one has come. It leaves the drain as it is by
// default.
func TestARollingRestartFailsNoRequest(t *testing.T) {
	t.Parallel()
	const replicas = 2
	x := install(t, replicas, troubled, on(redistest.Start(t).Addr), patient, "--drain=5s")
	clearOf(t, 24*time.Hour)
	p := &pool{t: t}
	for _, r := range x.replicas {
		p.watch(r)
	}
	eventually(t, soon, "all are healthy", func() bool { return p.size() == replicas })
	l := startLoad(t, p.pick, wide)
	for _, old := range x.replicas[:replicas] {
		p.watch(x.start(t))
		eventually(t, soon, "the new one is asked", func() bool { return p.size() == replicas+1 })
		old.EndsInOrder(t, syscall.SIGTERM)
	}
	pass(t, time.Second)
	l.stop()
	x.replicas = x.replicas[replicas:]

	for _, c := range l.those(func(c call) bool { return c.err != nil || !c.admitted }) {
		t.Errorf("a request was not admitted: %v", c.err)
	}
	admitted, used := int64(l.admitted(wide)), x.used(t, wide)
	lost := (used["Key/Tokens/Day"] - costs*admitted) / (100 - costs)
	t.Logf("all of %d replicas were replaced; %s; %d settlements failed and %d got lost", replicas, latencies(l.those(func(call) bool { return true })), len(l.settles), lost)
	want := map[string]int64{"Key/Requests/Day": admitted, "Key/Tokens/Day": costs * admitted, "Key/ConcurrentRequests": 0}
	if diff := cmp.Diff(want, used); diff != "" {
		t.Errorf("what is counted (-want +got):\n%s", diff)
	}
}
