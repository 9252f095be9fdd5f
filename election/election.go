// Package election decides which of several replicas does what only one may do at a time: who holds a Lease of the cluster.
package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// An Election finds, by a Lease, which of several replicas does what only one may do. A replica that cannot renew its lease, because
// the API server does not answer, stops that and goes on with everything else. It needs to get, create and update Leases of
// coordination.k8s.io in its namespace.
type Election struct {
	Config    *rest.Config
	Namespace string // of the Lease
	Name      string // of the Lease, such as tierkeeper-usage
	Identity  string // of this replica, such as the name of its Pod; no two may have one
	Log       *slog.Logger

	// Lasts is how long a leader that is not heard of stays the leader, in whole seconds; 15 s if it is 0.
	Lasts time.Duration
}

const (
	lasts = 15 * time.Second
	// A leader that could not renew its lease for so many parts of it stops, well before another begins.
	renewParts, ofParts = 2, 3
	triesPerLease       = 8
)

// Lead runs run whenever this replica is the leader, until ctx ends. The context of run ends when it is the leader no more.
// A leader whose run returns an error, or returns early, lets others lead and stands again. Nobody else is elected before run has
// returned, unless the lease has expired. An error says that the election is not possible as it is configured.
func (e Election) Lead(ctx context.Context, run func(context.Context) error) error {
	if e.Lasts == 0 {
		e.Lasts = lasts
	}
	config := rest.CopyConfig(e.Config)
	config.QPS, config.Timeout = -1, e.Lasts/ofParts // A request that hangs must not cost the lease.
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client for the election: %w", err)
	}
	lease := &lock{Interface: &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}, Client: set.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
	}}
	ctx = logr.NewContextWithSlogLogger(ctx, e.Log)
	var working sync.Mutex // A term that has ended may still be at it.
	for ctx.Err() == nil {
		if err := e.term(ctx, lease, &working, run); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(e.Lasts / triesPerLease):
		}
	}
	working.Lock()
	defer working.Unlock()
	return nil
}

// term waits to be elected, and leads until it is the leader no more.
func (e Election) term(ctx context.Context, lease resourcelock.Interface, working *sync.Mutex, run func(context.Context) error) error {
	// The lease is held until the work is over: whoever is elected then is alone.
	standing, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	var elected atomic.Bool
	defer context.AfterFunc(ctx, func() {
		if !elected.Load() {
			resign()
		}
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lease, Name: e.Name, ReleaseOnCancel: true,
		LeaseDuration: e.Lasts, RenewDeadline: e.Lasts * renewParts / ofParts, RetryPeriod: e.Lasts / triesPerLease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				elected.Store(true)
				defer resign()
				working.Lock()
				defer working.Unlock()
				leading, stop := context.WithCancel(leading)
				defer context.AfterFunc(ctx, stop)()
				if err := run(leading); err != nil && !errors.Is(err, context.Canceled) {
					e.Log.ErrorContext(ctx, "what the leader does has failed; another may lead", "lease", e.Name, "error", err)
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("electing a leader by the Lease %s/%s: %w", e.Namespace, e.Name, err)
	}
	elector.Run(standing)
	return nil
}
