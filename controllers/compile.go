package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// theTable is the one key of the compile loop: there is one table, whatever has changed.
var theTable = reconcile.Request{}

// retryAfter is when a compilation is done again that lacked something.
const retryAfter = 2 * time.Second

// stuckAfter is for how long a change waits for its compilation that does not come any more: far longer than any takes.
const stuckAfter = 2 * time.Minute

// A compiler makes a table of what is in the cluster, and hands it on, whenever something changes. Only one compilation is done
// at a time; changes that come within the holdoff, or during one, are compiled together.
type compiler struct {
	opts     *Options
	gatherer *gatherer
	contents contents
	tables   *tables
	labels   *unlabelled
	queue    atomic.Pointer[workqueue.TypedRateLimitingInterface[reconcile.Request]]

	compiled func(before, now *compilation) // called after each compilation
	touched  func(policy.Object)            // called for each event of an object of ours

	mark   uint64
	policy policy.Compiler
}

func newCompiler(mgr ctrl.Manager, o *Options, t *tables) *compiler {
	c := &compiler{opts: o, tables: t, contents: contents{api: mgr.GetAPIReader()}}
	c.labels = newUnlabelled(mgr.GetAPIReader(), o.Clock, c.again)
	c.gatherer = newGatherer(mgr.GetCache(), c.labels, o.SecretNamespaces)
	return c
}

// again has the table compiled anew, though no event says so.
func (c *compiler) again() {
	if q := c.queue.Load(); q != nil {
		(*q).AddAfter(theTable, c.opts.Holdoff)
	}
}

func (c *compiler) ready() error {
	if c.tables.newest() == nil {
		return errors.New("the objects of the cluster have not been compiled yet")
	}
	return nil
}

func (c *compiler) alive() error {
	if since := c.tables.waiting(); !since.IsZero() && c.opts.Clock.Since(since) > stuckAfter {
		return fmt.Errorf("nothing has been compiled since %s, though something has changed", since.UTC().Format(time.RFC3339))
	}
	return nil
}

func (c *compiler) add(mgr manager.Manager) error {
	follower := false
	loop, err := controller.New("compile", mgr, controller.Options{Reconciler: c, NeedLeaderElection: &follower, MaxConcurrentReconciles: 1})
	if err != nil {
		return err
	}
	// An empty cluster has no events, and a table all the same.
	first := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		c.queue.Store(&q)
		q.Add(theTable)
		return nil
	})
	return errors.Join(
		loop.Watch(first),
		watch(c, loop, mgr, &v1alpha1.RateLimitTier{}, policy.KindTier, says),
		watch(c, loop, mgr, &v1alpha1.ModelLimit{}, policy.KindModel, says),
		watch(c, loop, mgr, &v1alpha1.ApiKeyQuota{}, policy.KindQuota, says),
		watch(c, loop, mgr, &v1alpha1.UserQuota{}, policy.KindUser, says),
		watch(c, loop, mgr, &v1alpha1.QuotaGateway{}, policy.KindGateway, says),
		watch(c, loop, mgr, &corev1.Secret{}, kindSecret, func(before, now client.Object) bool { return before.GetResourceVersion() != now.GetResourceVersion() }),
		watch(c, loop, mgr, &corev1.Namespace{}, kindNamespace, func(before, now client.Object) bool { return !maps.Equal(before.GetLabels(), now.GetLabels()) }),
		mgr.Add(c.labels),
	)
}

// says reports whether an object of ours says something else than before. After an outage of the API server another object of the
// name can stand in its place.
func says(before, now client.Object) bool {
	return before.GetUID() != now.GetUID() || before.GetGeneration() != now.GetGeneration() ||
		!maps.Equal(before.GetLabels(), now.GetLabels()) || refusedAnew(before, now)
}

// refusedAnew reports whether the leader has just said by what an object goes on that is not accepted: all replicas go by that.
func refusedAnew(before, now client.Object) bool {
	last, former := lastAcceptedOf(now), lastAcceptedOf(before)
	if last == nil || !refused(statusOf(now), now.GetGeneration()) {
		return false
	}
	return former == nil || former.Generation != last.Generation || !refused(statusOf(before), before.GetGeneration())
}

// watch notes every event of a kind, and has those compiled that matter.
func watch[T client.Object](c *compiler, loop controller.Controller, mgr manager.Manager, object T, kind string, matters func(before, now client.Object) bool) error {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	take := func(o client.Object, q queue, there, matters bool) {
		c.gatherer.note(o, there)
		c.tables.note(kind, versionOf(o), matters)
		if matters {
			q.AddAfter(theTable, c.opts.Holdoff) // A later one of the same key does not put it off.
		}
		if _, ours := kinds[kind]; ours && c.touched != nil {
			c.touched(policy.Object{Kind: kind, Name: objectName(o)})
		}
	}
	return loop.Watch(source.Kind(mgr.GetCache(), object, handler.TypedFuncs[T, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[T], q queue) { take(e.Object, q, true, true) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[T], q queue) {
			take(e.ObjectNew, q, true, matters(e.ObjectOld, e.ObjectNew))
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[T], q queue) { take(e.Object, q, false, true) },
	}))
}

// Reconcile compiles everything. It runs after the caches have synced: nothing is published before.
func (c *compiler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	began := c.opts.Clock.Now()
	seen := c.tables.begin()
	in, err := c.gatherer.gather(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := c.tables.newest()
	in.LastAccepted = lastAccepted(before.remembers(), in.Quotas, in.Gateways)
	table, verdicts := c.policy.Compile(in)
	unread := c.contents.update(ctx, table.Gateways(), c.gatherer.version)
	c.mark++
	untold := c.opts.Publisher.Publish(ctx, Publication{table, namesOf(in.Gateways), c.contents.content(), c.mark})
	now := &compilation{mark: c.mark, table: table, verdicts: verdicts, notes: notesOn(&in, verdicts), seen: seen}
	c.tables.set(now)
	took := c.opts.Clock.Since(began)
	compileSeconds.Observe(took.Seconds())
	log.FromContext(ctx).V(1).Info("compiled", "mark", c.mark, "quotas", len(in.Quotas), "took", took.String())
	if c.compiled != nil {
		c.compiled(before, now)
	}
	if err := errors.Join(unread, untold); err != nil {
		log.FromContext(ctx).Error(err, "something of the table is not in force; it is tried again")
		return reconcile.Result{RequeueAfter: retryAfter}, nil
	}
	return reconcile.Result{}, nil
}

func namesOf(gateways []*v1alpha1.QuotaGateway) []policy.Name {
	names := make([]policy.Name, len(gateways))
	for i, g := range gateways {
		names[i] = objectName(g)
	}
	return names
}

func notesOn(in *policy.Input, verdicts []policy.Verdict) map[policy.Object][]policy.Note {
	all := map[policy.Object][]policy.Note{}
	for _, n := range policy.Idle(in, verdicts) {
		all[n.Object] = append(all[n.Object], n)
	}
	return all
}

var compileSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
	Name:    "tierkeeper_compile_seconds",
	Help:    "Time from the gathering of the objects until the data plane was told.",
	Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
})

// Metrics lists what the controllers measure, for the registry of the manager.
func Metrics() []prometheus.Collector {
	return []prometheus.Collector{compileSeconds, statusWrites, pending}
}
