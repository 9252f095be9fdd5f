package controllers

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	// replicaLabel marks the leases in which replicas tell what their clients have in force.
	replicaLabel = "tierkeeper.io/replica"
	// reportAnnotation holds the report, and versionAnnotation the version of the program that wrote it.
	reportAnnotation  = "tierkeeper.io/acknowledged"
	versionAnnotation = "tierkeeper.io/version"

	tellEvery    = time.Second            // at most
	gatherAcks   = 100 * time.Millisecond // changes within it are joined together
	forgetAfter  = 40                     // lease durations after which the lease of a dead replica is deleted
	heartbeats   = 3                      // within a lease duration
	graceOfLease = 2                      // lease durations within which somebody who is not connected is awaited
)

// replicas knows what the data plane has in force, of all replicas of the operator together, and tells the others what those have
// that are connected to this one. Each replica has a lease of its own for that, so that nobody overwrites what another says.
type replicas struct {
	client client.Client
	mgr    ctrl.Manager
	opts   *Options
	tables *tables
	poked  chan struct{}

	joined func(before, now *dataPlane) // called when the data plane has changed

	mu       sync.Mutex
	now      *dataPlane
	others   map[string]heard          // by the name of the lease
	absent   map[policy.Name]time.Time // gateways without Envoys; since when
	alone    time.Time                 // since when no service is connected; zero: one is
	began    time.Time
	written  string
	lastBeat time.Time
	own      heard     // the lease of this replica, as the cache has it
	deafAt   time.Time // when nobody could be heard last
}

// heard is when a lease said something new. Clocks of other machines are not compared with ours.
type heard struct {
	renewed metav1.MicroTime
	at      time.Time
}

func newReplicas(mgr ctrl.Manager, o *Options, t *tables) *replicas {
	return &replicas{
		client: mgr.GetClient(), mgr: mgr, opts: o, tables: t, poked: make(chan struct{}, 1),
		now: &dataPlane{}, others: map[string]heard{}, absent: map[policy.Name]time.Time{}, alone: o.Clock.Now(), began: o.Clock.Now(),
		own: heard{at: o.Clock.Now()},
	}
}

// NeedLeaderElection says that every replica tells what it knows.
func (*replicas) NeedLeaderElection() bool { return false }

// poke has everything joined anew. It never waits.
func (r *replicas) poke() {
	select {
	case r.poked <- struct{}{}:
	default: // It is about to be.
	}
}

// dataPlane is what was known last.
func (r *replicas) dataPlane() *dataPlane {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// Start joins and tells until ctx ends.
func (r *replicas) Start(ctx context.Context) error {
	informer, err := r.mgr.GetCache().GetInformer(ctx, &coordinationv1.Lease{})
	if err != nil {
		return err
	}
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { r.poke() }, UpdateFunc: func(any, any) { r.poke() }, DeleteFunc: func(any) { r.poke() },
	}); err != nil {
		return err
	}
	r.opts.Publisher.OnAcknowledged(r.poke)
	beat := r.opts.Clock.NewTicker(r.opts.LeaseDuration / heartbeats)
	defer beat.Stop()
	r.refresh(ctx)
	for {
		select {
		case <-ctx.Done():
			r.leave(ctx)
			return nil
		case <-beat.C():
		case <-r.poked:
			select { // Acknowledgements come in crowds.
			case <-ctx.Done():
			case <-r.opts.Clock.After(gatherAcks):
			}
		}
		r.refresh(ctx)
	}
}

// refresh joins what all replicas say, and tells what this one knows.
func (r *replicas) refresh(ctx context.Context) {
	acknowledged := r.opts.Publisher.Acknowledged()
	own := newReport(&acknowledged, r.tables.progressAt)
	if err := r.tell(ctx, own); err != nil && ctx.Err() == nil {
		log.FromContext(ctx).Error(err, "could not tell the other replicas what is in force")
	}
	reports, unreadable, err := r.listen(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "could not read what the other replicas say")
		return
	}
	reports[r.leaseName()] = own
	now := join(reports)
	now.unreadable = unreadable
	r.attend(now)
	r.mu.Lock()
	before := r.now
	r.now = now
	r.mu.Unlock()
	if r.joined != nil && !reflect.DeepEqual(before, now) {
		r.joined(before, now)
	}
}

// deaf reports whether this replica has not even heard itself for a while: then it is the API server that is away, or the watch that
// lags behind, and nobody else is taken for dead.
func (r *replicas) deaf(leases []coordinationv1.Lease, now time.Time) bool {
	for i := range leases {
		if l := &leases[i]; l.Name == r.leaseName() && l.Spec.RenewTime != nil && !r.own.renewed.Equal(l.Spec.RenewTime) {
			r.own = heard{*l.Spec.RenewTime, now}
		}
	}
	if now.Sub(r.own.at) <= r.opts.LeaseDuration {
		return false
	}
	r.deafAt = now
	return true
}

// attend says of those who are not connected whether they are awaited. They may have been connected to another replica for as long as
// that could not be heard.
func (r *replicas) attend(d *dataPlane) {
	at := r.opts.Clock.Now()
	absent := func(since time.Time) presence {
		if !since.IsZero() && since.Before(r.deafAt) {
			since = r.deafAt
		}
		return presenceOf(since, at, graceOfLease*r.opts.LeaseDuration)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.services.connected > 0 {
		r.alone = time.Time{}
	} else if r.alone.IsZero() {
		r.alone = at
	}
	d.services.presence, d.unheard = absent(r.alone), absent(r.began)
	for name, f := range r.now.gateways {
		if _, there := d.gateways[name]; !there && f.presence != gone {
			d.gateways[name] = enforcers{}
		}
	}
	for name, f := range d.gateways {
		if f.connected > 0 {
			delete(r.absent, name)
		} else if _, known := r.absent[name]; !known {
			r.absent[name] = at
		}
		f.presence = absent(r.absent[name])
		d.gateways[name] = f
	}
	maps.DeleteFunc(r.absent, func(name policy.Name, _ time.Time) bool { _, there := d.gateways[name]; return !there })
}

func presenceOf(absentSince, now time.Time, grace time.Duration) presence {
	switch {
	case absentSince.IsZero():
		return present
	case now.Sub(absentSince) < grace:
		return awaited
	default:
		return gone
	}
}

func (r *replicas) leaseName() string { return "tierkeeper-operator-" + r.opts.Identity }

// tell writes the report of this replica when it is new, and now and then.
func (r *replicas) tell(ctx context.Context, own report) error {
	text, err := own.text()
	if err != nil {
		return err
	}
	now := r.opts.Clock.Now()
	switch since := now.Sub(r.lastBeat); {
	case string(text) == r.written && since < r.opts.LeaseDuration/heartbeats:
		return nil
	case since < tellEvery:
		r.poke()
		return nil
	}
	renewed, seconds := metav1.NewMicroTime(now), int32(r.opts.LeaseDuration/time.Second) //nolint:gosec // Nobody waits for a century.
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: r.opts.Namespace, Name: r.leaseName()}}
	change := func() error {
		lease.Labels = map[string]string{replicaLabel: "operator"}
		lease.Annotations = map[string]string{reportAnnotation: string(text), versionAnnotation: r.opts.Version}
		lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &r.opts.Identity, LeaseDurationSeconds: &seconds, RenewTime: &renewed}
		return nil
	}
	// An API server that hangs must not hold up what is heard here.
	ctx, cancel := context.WithTimeout(ctx, r.opts.LeaseDuration/heartbeats)
	defer cancel()
	_, err = ctrl.CreateOrUpdate(ctx, r.client, lease, change)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		r.poke() // The cache was behind.
		return nil
	}
	if err != nil {
		return err
	}
	r.written, r.lastBeat = string(text), now
	return nil
}

// leave takes back what this replica said: its clients are about to connect to others.
func (r *replicas) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: r.opts.Namespace, Name: r.leaseName()}}
	if err := client.IgnoreNotFound(r.client.Delete(ctx, lease)); err != nil {
		log.FromContext(ctx).Error(err, "could not delete the lease of this replica; the others forget it soon")
	}
}

// listen reads what the other replicas that live have said.
func (r *replicas) listen(ctx context.Context) (reports map[string]report, unreadable []string, err error) {
	var leases coordinationv1.LeaseList
	if err := r.client.List(ctx, &leases, client.InNamespace(r.opts.Namespace)); err != nil {
		return nil, nil, err
	}
	reports = map[string]report{}
	now, said := r.opts.Clock.Now(), map[string]heard{}
	deaf := r.deaf(leases.Items, now)
	for i := range leases.Items {
		lease := &leases.Items[i]
		if lease.Name == r.leaseName() || lease.Spec.RenewTime == nil {
			continue
		}
		last, known := r.others[lease.Name]
		if !known || deaf || !last.renewed.Equal(lease.Spec.RenewTime) {
			last = heard{*lease.Spec.RenewTime, now}
		}
		said[lease.Name] = last
		lasts := r.opts.LeaseDuration
		if s := lease.Spec.LeaseDurationSeconds; s != nil {
			lasts = time.Duration(*s) * time.Second // They may have been started with another.
		}
		switch silent := now.Sub(last.at); {
		case silent > forgetAfter*lasts:
			_ = r.client.Delete(ctx, lease) // Another replica may have done so, or will.
			continue
		case silent > lasts:
			continue
		}
		var told report
		if err := json.Unmarshal([]byte(lease.Annotations[reportAnnotation]), &told); err != nil {
			unreadable = append(unreadable, lease.Name+", version "+lease.Annotations[versionAnnotation])
			continue
		}
		reports[lease.Name] = told
	}
	r.others = said
	slices.Sort(unreadable)
	return reports, unreadable, nil
}
