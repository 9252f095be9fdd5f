package controllers

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/policy"
)

const lasts = 15 * time.Second

// peers are replicas of an operator in one cluster.
type peers struct {
	cluster client.Client
	clock   *testclock.FakeClock
	writes  int   // of leases
	fails   error // what a write comes to
}

func newPeers() *peers {
	p := &peers{clock: testclock.NewFakeClock(time.Unix(1000, 0))}
	p.cluster = fake.NewClientBuilder().WithScheme(Scheme()).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			p.writes++
			if p.fails != nil {
				return p.fails
			}
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			p.writes++
			if p.fails != nil {
				return p.fails
			}
			return c.Update(ctx, o, opts...)
		},
	}).Build()
	return p
}

// A peer is one of them, and what those have in force who are connected to it.
type peer struct {
	*replicas
	Publisher

	has     Acknowledged
	changes int
}

func (p *peer) Acknowledged() Acknowledged { return p.has }

// start has a replica begin that has compiled what stands at resource version 5.
func (p *peers) start(identity string) *peer {
	out := &peer{}
	tables := newTables(clock.RealClock{})
	tables.note(policy.KindQuota, 5, true)
	tables.note(policy.KindGateway, 5, true)
	compile(tables, 1)
	out.replicas = &replicas{
		client: p.cluster, tables: tables, poked: make(chan struct{}, 1), now: &dataPlane{}, others: map[string]heard{}, absent: map[policy.Name]time.Time{},
		opts:  &Options{Publisher: out, Namespace: "tierkeeper", Identity: identity, Version: "v1", LeaseDuration: lasts, Clock: p.clock},
		alone: p.clock.Now(), began: p.clock.Now(), own: heard{at: p.clock.Now()},
	}
	out.joined = func(_, _ *dataPlane) { out.changes++ }
	return out
}

func (p *peer) isPoked() bool {
	select {
	case <-p.poked:
		return true
	default:
		return false
	}
}

// serving is a service, and an Envoy of the gateway, that have everything in force.
func serving() Acknowledged {
	return Acknowledged{Services: Services{Connected: 1, Mark: 1}, Gateways: map[policy.Name]Fleet{edge.Name: {Connected: 1, Current: 1, Mark: 1}}}
}

// TestReplicasCountWhoIsConnectedToOthers, as far as those have come, until the replica leaves.
func TestReplicasCountWhoIsConnectedToOthers(t *testing.T) {
	t.Parallel()
	p := newPeers()
	one, other := p.start("one"), p.start("other")
	one.has, other.has = serving(), serving()
	other.has.Services.Mark = 0 // It has nothing in force yet.
	other.refresh(t.Context())
	one.refresh(t.Context())
	want := &dataPlane{
		services: enforcers{connected: 2, seen: progress{policy.KindQuota: 0, policy.KindGateway: 0}, presence: present},
		refused:  map[policy.Object]string{},
		gateways: map[policy.Name]enforcers{edge.Name: {connected: 2, current: 2, seen: progress{policy.KindGateway: 5}, presence: present}},
	}
	if diff := cmp.Diff(want, one.dataPlane(), cmp.AllowUnexported(dataPlane{}, enforcers{})); diff != "" {
		t.Errorf("the data plane (-want +got):\n%s", diff)
	}
	one.refresh(t.Context())
	if one.changes != 1 {
		t.Errorf("somebody is told %d times of one change", one.changes)
	}
	other.leave(t.Context())
	one.refresh(t.Context())
	if got := one.dataPlane(); got.services.connected != 1 || !got.services.seen.reaches(policy.KindQuota, 5) || one.changes != 2 {
		t.Errorf("after the other has left, the services are %+v, told %d times", got.services, one.changes)
	}
}

// TestADeadReplicaIsForgotten: it is not counted after its lease, by its own word of how long that lasts, and its lease goes in the end.
func TestADeadReplicaIsForgotten(t *testing.T) {
	t.Parallel()
	const beat = lasts / heartbeats
	p := newPeers()
	one, dead := p.start("one"), p.start("dead")
	dead.opts.LeaseDuration = beat
	dead.has = serving()
	dead.refresh(t.Context())
	one.refresh(t.Context())
	count := func(after time.Duration) int {
		for range int(after / beat) {
			p.clock.Step(beat)
			one.refresh(t.Context())
		}
		return one.dataPlane().services.connected
	}
	if got := count(beat); got != 1 {
		t.Errorf("within its lease %d services are counted, want 1", got)
	}
	if got := count(beat); got != 0 {
		t.Errorf("after its lease %d services are counted, want none", got)
	}
	leases := func() int {
		all := &coordinationv1.LeaseList{}
		if err := p.cluster.List(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		return len(all.Items)
	}
	count((forgetAfter - 2) * beat)
	if got := leases(); got != 2 {
		t.Errorf("there are %d leases, want 2", got)
	}
	count(beat)
	if got := leases(); got != 1 {
		t.Errorf("long after there are %d leases, want 1", got)
	}
	p.clock.Step(time.Second)
	dead.refresh(t.Context())
	one.refresh(t.Context())
	if got := one.dataPlane().services.connected; got != 1 {
		t.Errorf("once it is back %d services are counted, want 1", got)
	}
}

// deafen lets the API server be away for so long that a replica hears nobody any more.
func (p *peers) deafen(t *testing.T, one *peer) {
	t.Helper()
	p.fails = apierrors.NewServiceUnavailable("the API server is away")
	for range 100 {
		p.clock.Step(time.Second)
		one.refresh(t.Context())
	}
}

// TestADeafReplicaCountsOnWhoItHeard: while the API server is away nobody can be heard, and all go on.
func TestADeafReplicaCountsOnWhoItHeard(t *testing.T) {
	t.Parallel()
	p := newPeers()
	one, other := p.start("one"), p.start("other")
	other.has = serving()
	other.refresh(t.Context())
	one.refresh(t.Context())
	p.deafen(t, one)
	if got := one.dataPlane().services.connected; got != 1 {
		t.Errorf("%d services are counted, want the 1 of before", got)
	}
}

// TestWhoWentToAnotherInADeafTimeIsAwaited: that they are there can be told only afterwards.
func TestWhoWentToAnotherInADeafTimeIsAwaited(t *testing.T) {
	t.Parallel()
	p := newPeers()
	one, other := p.start("one"), p.start("other")
	one.has = serving()
	other.refresh(t.Context())
	one.refresh(t.Context())
	expect := func(when string, want presence) {
		t.Helper()
		d := one.dataPlane()
		if s, g := d.services.presence, d.envoys(edge.Name).presence; s != want || g != want {
			t.Errorf("%s: services are %d and Envoys %d, want %d", when, s, g, want)
		}
	}
	one.has, other.has = Acknowledged{}, serving()
	p.deafen(t, one)
	p.fails = nil
	p.clock.Step(time.Second)
	one.refresh(t.Context())
	expect("it hears itself again", awaited)
	other.refresh(t.Context())
	one.refresh(t.Context())
	expect("it hears the other", present)
}

// TestNothingIsHeardOfAVersionThatCannotBeRead, and people are told which it is.
func TestNothingIsHeardOfAVersionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	p := newPeers()
	one := p.start("one")
	for _, identity := range []string{"z", "a"} {
		other := p.start(identity)
		other.opts.Version = "v9"
		other.has = serving()
		other.refresh(t.Context())
		lease := &coordinationv1.Lease{}
		if err := p.cluster.Get(t.Context(), client.ObjectKey{Namespace: "tierkeeper", Name: other.leaseName()}, lease); err != nil {
			t.Fatal(err)
		}
		lease.Annotations[reportAnnotation] = `{"services":[]}`
		if err := p.cluster.Update(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
	}
	one.has = serving()
	one.refresh(t.Context())
	want := []string{"tierkeeper-operator-a, version v9", "tierkeeper-operator-z, version v9"}
	if diff := cmp.Diff(want, one.dataPlane().unreadable); diff != "" || one.dataPlane().services.connected != 1 {
		t.Errorf("%d services are counted; unreadable (-want +got):\n%s", one.dataPlane().services.connected, diff)
	}
}

// TestALeaseIsWrittenWhenThereIsNews, and so often that nobody takes the replica for dead; not more than once a second.
func TestALeaseIsWrittenWhenThereIsNews(t *testing.T) {
	t.Parallel()
	p := newPeers()
	one := p.start("one")
	step := func(name string, after time.Duration, writes int, again bool) {
		t.Helper()
		p.clock.Step(after)
		p.writes = 0
		one.refresh(t.Context())
		if poked := one.isPoked(); p.writes != writes || poked != again {
			t.Errorf("%s: it is written %d times, and again soon: %t; want %d and %t", name, p.writes, poked, writes, again)
		}
	}
	step("at the start", 0, 1, false)
	step("nothing is new", time.Second, 0, false)
	step("it must be heard of", lasts/heartbeats-time.Second, 1, false)
	one.has = serving()
	step("news come at once", tellEvery-time.Millisecond, 0, true)
	step("and are told soon", time.Millisecond, 1, false)
	one.has = Acknowledged{}
	p.fails = apierrors.NewConflict(schema.GroupResource{}, "lease", nil)
	step("the cache is behind", tellEvery, 1, true)
	p.fails = apierrors.NewServiceUnavailable("the API server is away")
	step("the API server is away", tellEvery, 1, false)
	p.fails = nil
	step("it is back", 0, 1, false)
}

// TestWhoIsGoneIsAwaitedForAWhile: a rollout of Envoys, services and operators is no outage.
func TestWhoIsGoneIsAwaitedForAWhile(t *testing.T) {
	t.Parallel()
	const grace = graceOfLease * lasts
	unknown := policy.Name{Namespace: "edge", Name: "unknown"}
	p := newPeers()
	one := p.start("one")
	for _, step := range []struct {
		name                        string
		after                       time.Duration
		has                         Acknowledged
		services, envoys, strangers presence
	}{
		{"the operator has started", 0, Acknowledged{}, awaited, awaited, awaited},
		{"it still waits", grace - time.Second, Acknowledged{}, awaited, awaited, awaited},
		{"nobody has come", time.Second, Acknowledged{}, gone, gone, gone},
		{"somebody has", time.Second, serving(), present, present, gone},
		{"they left", time.Second, Acknowledged{}, awaited, awaited, gone},
		{"they are awaited", grace - time.Second, Acknowledged{}, awaited, awaited, gone},
		{"they are back", time.Second / 2, serving(), present, present, gone},
		{"they left again", time.Hour, Acknowledged{}, awaited, awaited, gone},
		{"an Envoy cannot be told", grace - time.Second, Acknowledged{Gateways: map[policy.Name]Fleet{edge.Name: {Rejected: "no"}}}, awaited, awaited, gone},
		{"none has come", time.Second, Acknowledged{}, gone, gone, gone},
		{"and none does", time.Hour, Acknowledged{}, gone, gone, gone},
	} {
		p.clock.Step(step.after)
		one.has = step.has
		one.refresh(t.Context())
		d := one.dataPlane()
		if d.services.presence != step.services || d.envoys(edge.Name).presence != step.envoys || d.envoys(unknown).presence != step.strangers {
			t.Errorf("%s: services, Envoys and those of another gateway are %d, %d and %d, want %d, %d and %d",
				step.name, d.services.presence, d.envoys(edge.Name).presence, d.envoys(unknown).presence, step.services, step.envoys, step.strangers)
		}
	}
	if len(one.absent) != 0 {
		t.Errorf("it keeps since when %v is gone", one.absent)
	}
}
