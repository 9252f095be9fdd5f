package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// fieldManager owns what the operator writes. The rate-limit service has its own, so that neither touches the other's fields.
const fieldManager = "tierkeeper-operator"

// unsureFor is when an object is looked at again of which not everything is known.
const unsureFor = time.Second

// looksApart is how long an object waits for its time at most before it is looked at: nobody could be made to keep those that are
// deleted until a time that is years away.
const looksApart = time.Hour

// requestTimeout is that of one request: an API server that hangs must not hold up whoever asks.
const requestTimeout = 10 * time.Second

// writers is how many objects are looked at, and written, at once.
const writers = 8

// A status writes what is known of objects into them, while this replica is elected. It writes what differs, in the order of
// turns, and no faster than it may.
type status struct {
	client client.Client
	events interface {
		Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
	}
	opts     *Options
	tables   *tables
	replicas *replicas
	unlooked func(policy.Name) bool // whether a Secret is yet to be looked for
	limiter  *rate.Limiter

	mu      sync.Mutex
	queue   *queue // nil while another replica is elected
	since   map[policy.Object]generation
	written map[policy.Object]uint64 // resource versions that the cache does not have yet
	open    map[policy.Object]bool   // not in force everywhere yet
}

// generation is one of an object, and the resource version at which it was seen first. Another object of the same name begins
// with the same number.
type generation struct {
	uid     types.UID
	number  int64
	version uint64
}

func newStatus(mgr ctrl.Manager, o *Options, t *tables, r *replicas) *status {
	return &status{
		client: mgr.GetClient(), events: mgr.GetEventRecorder("tierkeeper-operator"), opts: o, tables: t, replicas: r,
		limiter: rate.NewLimiter(rate.Limit(o.WritesPerSecond), max(1, int(o.WritesPerSecond))),
		since:   map[policy.Object]generation{}, written: map[policy.Object]uint64{}, open: map[policy.Object]bool{},
	}
}

// add has objects looked at, if this replica is elected.
func (s *status) add(u urgency, objects ...policy.Object) {
	if q := s.current(); q != nil {
		q.add(u, objects...)
	}
}

func (s *status) current() *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue
}

// compiled looks at what a compilation says anew.
func (s *status) compiled(before, now *compilation) {
	edited, other := changes(before, now)
	s.add(justChanged, edited...)
	s.add(affected, other...)
}

// joined looks at what the data plane has just put in force, refused, or lost.
func (s *status) joined(before, now *dataPlane) {
	everything := before.services.presence != now.services.presence || before.unheard != now.unheard || before.cut != now.cut ||
		!slices.Equal(before.unreadable, now.unreadable)
	if c := s.tables.newest(); everything && c != nil {
		s.add(looked, objectsOf(c)...)
	}
	s.mu.Lock()
	objects := make([]policy.Object, 0, len(s.open))
	for o := range s.open {
		objects = append(objects, o)
	}
	s.mu.Unlock()
	for _, refused := range []map[policy.Object]string{before.refused, now.refused} {
		for o := range refused {
			if before.refused[o] != now.refused[o] {
				objects = append(objects, o)
			}
		}
	}
	for _, gateways := range []map[policy.Name]enforcers{before.gateways, now.gateways} {
		for name := range gateways {
			if !reflect.DeepEqual(before.envoys(name), now.envoys(name)) {
				objects = append(objects, policy.Object{Kind: policy.KindGateway, Name: name})
			}
		}
	}
	s.add(affected, objects...)
}

// touched looks at an object whose status somebody may have written.
func (s *status) touched(o policy.Object) {
	s.add(looked, o)
	if s.isOpen(o) {
		s.replicas.poke() // Whoever has the newest table has seen this version now.
	}
}

func objectsOf(c *compilation) []policy.Object {
	all := make([]policy.Object, len(c.verdicts))
	for i := range c.verdicts {
		all[i] = c.verdicts[i].Object
	}
	return all
}

// run writes until ctx ends.
func (s *status) run(ctx context.Context) {
	log.FromContext(ctx).Info("elected: this replica writes status")
	queue := newQueue(s.opts.Clock)
	s.mu.Lock()
	s.queue = queue
	clear(s.open)
	clear(s.since)
	clear(s.written)
	s.mu.Unlock()
	if c := s.tables.newest(); c != nil {
		s.add(looked, objectsOf(c)...)
	}
	var working sync.WaitGroup
	for range writers {
		working.Go(func() { s.work(ctx, queue) })
	}
	<-ctx.Done()
	s.mu.Lock()
	s.queue = nil
	s.mu.Unlock()
	queue.ShutDown()
	working.Wait()
	pending.Set(0) // Who is elected now counts them.
}

func (s *status) work(ctx context.Context, queue *queue) {
	for {
		o, stopped := queue.Get()
		if stopped || ctx.Err() != nil { // A queue that was stopped hands out what it has.
			return
		}
		err := s.look(ctx, o)
		switch {
		case errors.Is(err, errUnsure):
			queue.AddAfter(o, unsureFor)
		case err != nil && ctx.Err() == nil:
			log.FromContext(ctx).Error(err, "could not write the status; it is tried again", "object", o.String())
			queue.AddRateLimited(o)
		default:
			queue.Forget(o)
		}
		queue.Done(o)
	}
}

// look writes the status of one object if it is not what it should be.
func (s *status) look(ctx context.Context, o policy.Object) error {
	wanted, err := s.wanted(ctx, o)
	if err != nil || wanted == nil || !wanted.differs() {
		return err
	}
	if err := s.limiter.Wait(ctx); err != nil {
		return err
	}
	// It may have changed meanwhile.
	if wanted, err = s.wanted(ctx, o); err != nil || wanted == nil || !wanted.differs() {
		return err
	}
	return s.write(ctx, wanted)
}

// A change is what the status of an object should be, and the object as the cache has it.
type change struct {
	object policy.Object
	held   client.Object
	status v1alpha1.ObjectStatus
	last   *v1alpha1.LastAccepted
	envoys *v1alpha1.Envoys
}

// wanted is nil where there is nothing to say: the object is gone, is not compiled as it is now, or the cache lags behind what was
// written. Another event comes then.
func (s *status) wanted(ctx context.Context, o policy.Object) (*change, error) {
	held := kinds[o.Kind]()
	if err := s.client.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name.Name}, held); err != nil {
		s.forget(o)
		return nil, client.IgnoreNotFound(err)
	}
	compiled := s.tables.newest()
	verdict, found := compiled.verdict(o)
	if !found || verdict.UID != held.GetUID() || verdict.Generation != held.GetGeneration() || s.behind(o, versionOf(held)) {
		return nil, nil
	}
	before := statusOf(held).Conditions
	if mayTurn(&verdict, before) && s.looksFor(held) {
		return nil, errUnsure
	}
	plane := s.replicas.dataPlane()
	out := &change{object: o, held: held, status: v1alpha1.ObjectStatus{ObservedGeneration: verdict.Generation}}
	switch o.Kind {
	case policy.KindQuota:
		out.last = quotaLastAccepted(compiled.table, o.Name, verdict.Accepted())
	case policy.KindGateway:
		out.last = gatewayLastAccepted(compiled.table, o.Name)
		out.envoys = envoysOf(plane.envoys(o.Name), plane.unheard == awaited, held)
	}
	now := s.opts.Clock.Now()
	observed := observation{verdict: verdict, notes: compiled.notes[o], goesOn: out.last != nil, before: before}
	if q, ok := held.(*v1alpha1.ApiKeyQuota); ok {
		observed.refusal = refusal(compiled.table, o.Name, now)
		s.lookAt(o, q.Spec.ExpirationTime, now)
	}
	observed.since = s.seenSince(o, held, hasTurned(&verdict, before))
	out.status.Conditions = observed.conditions(plane)
	timed(out.status.Conditions, before, metav1.NewTime(now).Rfc3339Copy())
	s.settle(o, out.status.Conditions)
	return out, nil
}

// refusal is why requests with the keys of a quota are refused at that time, whatever its limits.
func refusal(t *policy.Table, quota policy.Name, now time.Time) string {
	if c, found := t.Quota(quota); found {
		return c.Standing(now).Refusal()
	}
	return ""
}

// lookAt has an object looked at when its time has come, and now and then before: that it has passed no event tells.
func (s *status) lookAt(o policy.Object, at *metav1.Time, now time.Time) {
	if q := s.current(); q != nil && at != nil && at.After(now) {
		q.AddAfter(o, min(at.Sub(now), looksApart))
	}
}

// errUnsure puts off what may have to be said otherwise in a moment.
var errUnsure = errors.New("not all Secrets were looked for yet")

// looksFor reports whether any Secret that an object names is yet to be looked for.
func (s *status) looksFor(o client.Object) bool {
	switch o := o.(type) {
	case *v1alpha1.ApiKeyQuota:
		return slices.ContainsFunc(o.Spec.Keys, func(k v1alpha1.APIKey) bool {
			return k.SecretKeyRef != nil && s.unlooked(policy.Name{Namespace: o.Namespace, Name: k.SecretKeyRef.Name})
		})
	case *v1alpha1.QuotaGateway:
		return slices.ContainsFunc(policy.SecretUses(o), func(u policy.SecretUse) bool { return s.unlooked(u.Secret) })
	default:
		return false
	}
}

// mayTurn reports whether an object that was refused already lacks a Secret that may be found to lack its label only.
func mayTurn(v *policy.Verdict, before []metav1.Condition) bool {
	c := meta.FindStatusCondition(before, v1alpha1.ConditionAccepted)
	return c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == v.Generation &&
		slices.ContainsFunc(v.Problems, func(p policy.Problem) bool { return p.Reason == v1alpha1.ReasonSecretNotFound })
}

// envoysOf counts the Envoys of a gateway. While those of a new operator may be about to connect, what was counted before stays.
func envoysOf(e enforcers, early bool, held client.Object) *v1alpha1.Envoys {
	if g, ok := held.(*v1alpha1.QuotaGateway); ok && g.Status.Envoys != nil && early && (e.connected == 0 || e.current < e.connected) {
		return g.Status.Envoys
	}
	connected, current := int32(e.connected), int32(e.current) //nolint:gosec // Nobody runs two billion Envoys.
	return &v1alpha1.Envoys{Connected: &connected, Acknowledged: &current}
}

// differs reports whether the object says something else. Conditions of others are theirs.
func (c *change) differs() bool {
	held := statusOf(c.held)
	for i := range c.status.Conditions {
		if !slices.ContainsFunc(held.Conditions, func(h metav1.Condition) bool { return equality.Semantic.DeepEqual(h, c.status.Conditions[i]) }) {
			return true
		}
	}
	return held.ObservedGeneration != c.status.ObservedGeneration || !sameRecord(lastAcceptedOf(c.held), c.last) || !sameEnvoys(c.held, c.envoys)
}

func sameRecord(a, b *v1alpha1.LastAccepted) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Generation == b.Generation && sameRaw(a.Spec, b.Spec) && sameRaw(a.Tiers, b.Tiers)
}

func sameRaw(a, b *runtime.RawExtension) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Raw, b.Raw)
}

func sameEnvoys(held client.Object, e *v1alpha1.Envoys) bool {
	g, ok := held.(*v1alpha1.QuotaGateway)
	return !ok || equality.Semantic.DeepEqual(g.Status.Envoys, e)
}

// write applies the fields that are the operator's, and tells of changes that people should hear of.
func (s *status) write(ctx context.Context, c *change) error {
	status := map[string]any{"observedGeneration": c.status.ObservedGeneration}
	for name, value := range map[string]any{"lastAccepted": c.last, "envoys": c.envoys} {
		plain, err := plainMap(value)
		if err != nil {
			return err
		}
		if plain != nil {
			status[name] = plain
		}
	}
	conditions := make([]any, 0, len(c.status.Conditions))
	for i := range c.status.Conditions {
		plain, err := plainMap(&c.status.Conditions[i])
		if err != nil {
			return err
		}
		conditions = append(conditions, plain)
	}
	status["conditions"] = conditions
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(c.object.Kind))
	u.SetNamespace(c.object.Namespace)
	u.SetName(c.object.Name.Name)
	u.SetUID(c.held.GetUID()) // so that nothing is written into another object of the name
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := s.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldManager), client.ForceOwnership); err != nil {
		statusWrites.WithLabelValues("error").Inc()
		return client.IgnoreNotFound(err)
	}
	statusWrites.WithLabelValues("ok").Inc()
	s.wrote(c.object, versionOf(u))
	s.tell(c)
	return nil
}

// plainMap is nil for a nil pointer.
func plainMap(v any) (map[string]any, error) {
	if reflect.ValueOf(v).IsNil() {
		return nil, nil
	}
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(v)
	if err != nil {
		return nil, fmt.Errorf("writing status: %w", err)
	}
	return out, nil
}
