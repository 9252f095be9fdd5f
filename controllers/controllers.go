// Package controllers decides when the objects of a cluster are looked at and when their status is written: it watches and
// gathers them, hands each consistent view to package policy, the result to whoever tells the data plane, and writes into
// status what policy found and what the data plane acknowledged. What an object means is decided elsewhere.
//
// Every replica gathers and compiles, and serves what comes of it; only the elected one writes status.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/tierkeeper/tierkeeper/policy"
)

// Options says how the controllers run. All but Publisher, Namespace and Identity have sane zero values.
type Options struct {
	Publisher Publisher
	Namespace string // of the operator: its leases stand there
	Identity  string // of this replica, unlike that of any other: the name of its pod
	Version   string // of the program

	SecretNamespaces []string // those given to CacheOptions

	Holdoff         time.Duration // how long a change waits for others to be compiled with; 0: DefaultHoldoff
	WritesPerSecond float64       // of status, at most; 0: DefaultWritesPerSecond
	LeaseDuration   time.Duration // after which a replica that says nothing is taken for dead; 0: DefaultLeaseDuration
	Clock           clock.WithTicker
}

// Defaults of Options.
const (
	DefaultHoldoff         = 50 * time.Millisecond
	DefaultWritesPerSecond = 50
	DefaultLeaseDuration   = 15 * time.Second
)

func (o *Options) complete() error {
	if o.Namespace == "" || o.Identity == "" {
		return fmt.Errorf("the operator must know its namespace and the name of its pod; it knows %q and %q", o.Namespace, o.Identity)
	}
	if o.Holdoff == 0 {
		o.Holdoff = DefaultHoldoff
	}
	if o.WritesPerSecond == 0 {
		o.WritesPerSecond = DefaultWritesPerSecond
	}
	if o.LeaseDuration == 0 {
		o.LeaseDuration = DefaultLeaseDuration
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return nil
}

// A Publisher tells the data plane, and hears what it has in force. Its methods may be called from many goroutines.
type Publisher interface {
	// Publish tells the data plane. What of it cannot be told costs only itself, and is in the error.
	Publish(ctx context.Context, p Publication) error
	// Acknowledged is what those who are connected to this replica have in force.
	Acknowledged() Acknowledged
	// OnAcknowledged has f called, from any goroutine, when Acknowledged may have changed. It is called once.
	OnAcknowledged(f func())
}

// A Publication is what the data plane is to have in force from now on.
type Publication struct {
	Table    *policy.Table
	Gateways []policy.Name // all that are in the cluster, in the Table or not
	Content  Content       // of the Secrets that gateways name
	Mark     uint64        // grows from one to the next
}

// Content has the content of the Secrets that gateways name.
type Content struct {
	// Unread reports whether a Secret is there and could not be read so far: nothing can be told of a gateway that needs it.
	Unread func(policy.Name) bool
	Usable func(policy.SecretValue) bool
	Value  func(policy.SecretValue) []byte
}

// Add adds the controllers to the manager, which must have the cache of CacheOptions and no leader election of its own.
func Add(mgr ctrl.Manager, o Options) (*Controllers, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	tables := newTables(o.Clock)
	replicas := newReplicas(mgr, &o, tables)
	status := newStatus(mgr, &o, tables, replicas)
	compiler := newCompiler(mgr, &o, tables)
	compiler.touched, status.unlooked = status.touched, compiler.labels.open
	compiler.compiled = func(before, now *compilation) {
		status.compiled(before, now)
		replicas.poke() // Whoever had everything in force may have it still.
	}
	replicas.joined = status.joined
	if err := errors.Join(compiler.add(mgr), mgr.Add(replicas), mgr.Add(newTerm(mgr, &o, status))); err != nil {
		return nil, fmt.Errorf("adding the controllers: %w", err)
	}
	return &Controllers{compiler}, nil
}

// Controllers is what was added to a manager.
type Controllers struct{ compiler *compiler }

// Ready says why the operator does not serve yet: a health check of its readiness.
func (c *Controllers) Ready() error { return c.compiler.ready() }

// Alive says that changes are not compiled any more, and that only a restart can help: a health check of its life.
func (c *Controllers) Alive() error { return c.compiler.alive() }
