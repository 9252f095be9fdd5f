package standalone

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// enforcer holds the limits of a table: the limiter, its counters and their file, and whether it can be asked.
type enforcer struct {
	limiter  *ratelimit.Limiter
	store    *memory.Store
	failures *memory.Failures
	health   *health.Server
	log      *slog.Logger
	down     atomic.Pointer[time.Time] // since when the operator tells nothing; nil: no operator is followed
}

// newEnforcer takes the data directory, which belongs to one enforcer at a time. It cannot be asked until it obeys a table.
func newEnforcer(c *Common) (*enforcer, error) {
	store, err := memory.Load(filepath.Join(c.DataDir, counterFile), time.Now())
	if err != nil {
		return nil, err
	}
	keys, err := loadLeaseKeys(c.LeaseKeyFile, c.DataDir)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	failures := memory.NewFailures()
	e := &enforcer{
		limiter: ratelimit.New(store, keys.signing, ratelimit.WithLog(c.Log), ratelimit.WithFormerSecret(keys.former), ratelimit.WithFailures(failures)),
		store:   store, failures: failures, health: health.NewServer(), log: c.Log,
	}
	e.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	return e, nil
}

func (e *enforcer) register(g *grpc.Server) {
	ratelimit.Register(g, e.limiter, e.log)
	healthv1.RegisterHealthServer(g, e.health)
}

// obey puts a table in force from the next request on.
func (e *enforcer) obey(t *policy.Table) {
	e.limiter.SetTable(t)
	e.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
}

// tell notes how it stands with the operator.
func (e *enforcer) tell(s feed.Status) { e.down.Store(&s.Down) }

// leave tells whoever asks to ask others from now on.
func (e *enforcer) leave() { e.health.Shutdown() }

// run does what is to be done regularly, until ctx ends.
func (e *enforcer) run(ctx context.Context) error {
	go e.limiter.Watch(ctx)
	e.keepCounters(ctx)
	return nil
}

// keepCounters writes what was counted and forgets what is over, until ctx ends. It waits for nothing else: however long a
// reload takes, a crash loses no more than a second.
func (e *enforcer) keepCounters(ctx context.Context) {
	flush, sweep := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-sweep.C:
			e.store.Sweep(now)
			e.failures.Sweep(now)
		case now := <-flush.C:
			if err := e.store.Flush(now); err != nil {
				e.log.ErrorContext(ctx, "could not write the counters", "error", err)
			}
		}
	}
}

func (e *enforcer) close() {
	if err := e.store.Flush(time.Now()); err != nil {
		e.log.Error("could not write the counters", "error", err)
	}
	if err := e.store.Close(); err != nil {
		e.log.Error("could not close the counter file", "error", err)
	}
}
