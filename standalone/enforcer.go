package standalone

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// enforcer holds the limits of a table: the limiter, its counters, and whether it can be asked.
type enforcer struct {
	*counters

	limiter *ratelimit.Limiter
	health  *health.Server
	log     *slog.Logger
	down    atomic.Pointer[time.Time] // since when the operator tells nothing; nil: no operator is followed
}

// newEnforcer takes over the counters, and the data directory, which belongs to one enforcer at a time. It cannot be asked until
// it obeys a table.
func newEnforcer(c *Common, counters *counters) (*enforcer, error) {
	keys, err := loadLeaseKeys(c.LeaseKeyFile, c.DataDir)
	if err != nil {
		counters.close()
		return nil, err
	}
	e := &enforcer{
		counters: counters, health: health.NewServer(), log: c.Log,
		limiter: ratelimit.New(counters.store, keys.signing, ratelimit.WithLog(c.Log), ratelimit.WithFormerSecret(keys.former),
			ratelimit.WithFailures(counters.failures), ratelimit.WithOutages(counters.stores, counters.out)),
	}
	e.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	return e, nil
}

// enforceAlone is an enforcer that counts in the memory of this process.
func enforceAlone(c *Common) (*enforcer, error) {
	counters, err := countAlone(c)
	if err != nil {
		return nil, err
	}
	return newEnforcer(c, counters)
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

// ready tells a kubelet, which cannot bring the certificate that Envoys bring, what they are told.
func (e *enforcer) ready(w http.ResponseWriter, r *http.Request) {
	answer, err := e.health.Check(r.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		http.Error(w, "it knows no limits yet, or is stopping", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// run does what is to be done regularly, until ctx ends.
func (e *enforcer) run(ctx context.Context) error {
	go e.limiter.Watch(ctx)
	e.counters.run(ctx)
	return nil
}
