package controllers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

var free = policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: "free"}}

// A scene is a status that writes into a cluster of one plan, one quota and one gateway. Time passes while everything waits.
type scene struct {
	*status

	cluster  client.Client
	news     *events.FakeRecorder
	secrets  map[policy.Name]policy.Secret
	compiler policy.Compiler
	mark     uint64
	unknown  atomic.Bool // whether Secrets are there is yet to be found out
	depose   func()      // ends the term

	mu     sync.Mutex
	writes map[policy.Name][]types.UID // of whom somebody has written the status, or tried to
	fails  error                       // what comes of a write
	cached *v1alpha1.ApiKeyQuota       // the quota as a cache has it that lags behind; nil: it does not
}

// inScene runs a test in which all objects are in force everywhere, as soon as they are compiled.
func inScene(t *testing.T, test func(t *testing.T, s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{news: events.NewFakeRecorder(100), writes: map[policy.Name][]types.UID{}}
		in := written(1, 7)
		s.secrets = in.Secrets
		objects := []client.Object{in.Tiers[0], in.Quotas[0], in.Gateways[0]}
		for _, o := range objects {
			o.SetUID(types.UID(o.GetName() + "-1"))
			o.SetGeneration(1)
		}
		s.cluster = fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(objects...).WithStatusSubresource(objects...).
			WithInterceptorFuncs(interceptor.Funcs{Get: s.get, SubResourceApply: s.apply}).Build()
		s.status = &status{
			client: s.cluster, events: s.news, opts: &Options{Clock: clock.RealClock{}}, tables: newTables(clock.RealClock{}),
			replicas: &replicas{now: everywhere(), poked: make(chan struct{}, 1)},
			unlooked: func(policy.Name) bool { return s.unknown.Load() }, limiter: rate.NewLimiter(rate.Inf, 1),
			since: map[policy.Object]generation{}, written: map[policy.Object]uint64{}, open: map[policy.Object]bool{},
		}
		test(t, s)
		if s.depose != nil {
			s.depose()
		}
	})
}

// everywhere is a data plane that has all in force.
func everywhere() *dataPlane {
	const newest = 1 << 60
	return &dataPlane{
		services: enforcers{connected: 1, current: 1, seen: progress{policy.KindTier: newest, policy.KindQuota: newest}, presence: present},
		refused:  map[policy.Object]string{},
		gateways: map[policy.Name]enforcers{edge.Name: {connected: 1, current: 1, seen: progress{policy.KindGateway: newest}, presence: present}},
	}
}

func (s *scene) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	s.mu.Lock()
	cached := s.cached
	s.mu.Unlock()
	if q, ok := o.(*v1alpha1.ApiKeyQuota); ok && cached != nil {
		cached.DeepCopyInto(q)
		return nil
	}
	return c.Get(ctx, key, o, opts...)
}

func (s *scene) apply(ctx context.Context, c client.Client, sub string, o runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
	object := o.(client.Object)
	s.mu.Lock()
	s.writes[objectName(object)] = append(s.writes[objectName(object)], object.GetUID())
	fails := s.fails
	s.mu.Unlock()
	if fails != nil {
		return fails
	}
	return c.SubResource(sub).Apply(ctx, o, opts...)
}

// elect begins a term.
func (s *scene) elect(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		s.run(ctx)
		close(ended)
	}()
	s.depose = func() { cancel(); <-ended }
	synctest.Wait()
}

// compile compiles the cluster as it is.
func (s *scene) compile(t *testing.T) {
	t.Helper()
	var o objects
	for _, list := range []client.ObjectList{&o.tiers, &o.quotas, &o.gateways} {
		if err := s.cluster.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	before := s.tables.newest()
	in := o.input()
	in.Secrets = s.secrets
	in.LastAccepted = lastAccepted(before.remembers(), in.Quotas, in.Gateways)
	table, verdicts := s.compiler.Compile(in)
	s.mark++
	now := &compilation{mark: s.mark, table: table, verdicts: verdicts, seen: s.tables.begin()}
	s.tables.set(now)
	s.compiled(before, now)
	synctest.Wait()
}

// hear changes what the data plane says.
func (s *scene) hear(change func(*dataPlane)) {
	before, now := s.replicas.dataPlane(), everywhere()
	change(now)
	s.replicas.mu.Lock()
	s.replicas.now = now
	s.replicas.mu.Unlock()
	s.joined(before, now)
	synctest.Wait()
}

func (s *scene) quota(t *testing.T) *v1alpha1.ApiKeyQuota {
	t.Helper()
	q := &v1alpha1.ApiKeyQuota{}
	s.read(t, quota, q)
	return q
}

func (s *scene) read(t *testing.T, o policy.Object, into client.Object) {
	t.Helper()
	if err := s.cluster.Get(t.Context(), types.NamespacedName{Namespace: o.Namespace, Name: o.Name.Name}, into); err != nil {
		t.Fatal(err)
	}
}

// edit writes the next generation of the quota.
func (s *scene) edit(t *testing.T, change func(*v1alpha1.ApiKeyQuota)) {
	t.Helper()
	q := s.quota(t)
	change(q)
	q.Generation++
	if err := s.cluster.Update(t.Context(), q); err != nil {
		t.Fatal(err)
	}
}

// replace deletes the quota and makes another of its name.
func (s *scene) replace(t *testing.T) {
	t.Helper()
	former := s.quota(t)
	next := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: former.Namespace, Name: former.Name, UID: "app-2", Generation: former.Generation}, Spec: former.Spec}
	if err := s.cluster.Delete(t.Context(), former); err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.Create(t.Context(), next); err != nil {
		t.Fatal(err)
	}
}

// condition is the reason of a condition in the cluster, and its generation; empty if there is none.
func (s *scene) condition(t *testing.T, o policy.Object, kind string) string {
	t.Helper()
	held := kinds[o.Kind]()
	s.read(t, o, held)
	if c := meta.FindStatusCondition(statusOf(held).Conditions, kind); c != nil {
		return fmt.Sprint(c.Reason, " ", c.ObservedGeneration)
	}
	return ""
}

func (s *scene) want(t *testing.T, o policy.Object, kind, want string) {
	t.Helper()
	if got := s.condition(t, o, kind); got != want {
		t.Errorf("%s of %s is %q, want %q", kind, o, got, want)
	}
}

// wantWrites counts the writes of all objects.
func (s *scene) wantWrites(t *testing.T, want int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := 0
	for _, of := range s.writes {
		got += len(of)
	}
	if got != want {
		t.Errorf("status was written %d times, want %d: %v", got, want, s.writes)
	}
}

// after waits for what happens in that time.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
