package standalone

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// tableFile keeps what the operator told last.
const tableFile = "table.db"

// DefaultDrain is longer than the two health checks after which an Envoy asks a replica no more.
const DefaultDrain = 5 * time.Second

// ServiceConfig says what RunService runs. Limits come from Manifests or from an Operator.
type ServiceConfig struct {
	Common

	Address string     // to listen on, as host:port; port 0: one of the kernel's choice. Beyond loopback only with TLS
	TLS     mtls.Files // of this process, as the server of Envoys and as a client of the operator

	Operator     string // address of the operator, as host:port; empty: Manifests are read
	OperatorName string // that the operator's certificate must be for; empty: the host of Operator
	Identity     string // of this replica, unlike that of any other

	// Redis is where replicas count together; nil: this one counts alone, in memory. Replicas need one LeaseKeyFile, or none could
	// settle what another has charged.
	Redis *redis.Options
	// StoreDeadline is how long requests wait for a Redis that answers none of them; 0: [outage.DefaultDeadline].
	StoreDeadline time.Duration
	// Drain is for how long a stop lets Envoys take notice, by their health checks, and ask other replicas, and takes what still
	// comes from them.
	Drain time.Duration

	// Beside makes what is to run beside the limiter until its ctx ends, and what that measures; nil: nothing does.
	Beside func(l *ratelimit.Limiter) (run func(ctx context.Context) error, measures prometheus.Collector)
}

// RunService serves the rate-limit service alone until ctx ends, then stops in order and returns nil. It returns an error if
// it cannot start.
func RunService(ctx context.Context, c ServiceConfig) error {
	r := &serviceRunner{ServiceConfig: &c, console: newConsole(c.Out)}
	if err := r.prepareSource(); err != nil {
		return err
	}
	e, err := r.enforce(ctx)
	if err != nil {
		return err
	}
	defer e.close()
	r.enforcer = e
	return r.run(ctx)
}

// serviceRunner is everything that runs of the rate-limit service.
type serviceRunner struct {
	*ServiceConfig
	source   source // nothing, with an operator
	enforcer *enforcer
	console  *console
}

func (r *serviceRunner) prepareSource() (err error) {
	if r.Operator == "" {
		r.source, err = r.prepare(serviceStateFile)
		return err
	}
	if err := r.TLS.CheckAddress(r.Operator); err != nil {
		return fmt.Errorf("following the operator (--operator): %w", err)
	}
	return r.prepareServers()
}

func (r *serviceRunner) enforce(ctx context.Context) (*enforcer, error) {
	if r.Redis == nil {
		return enforceAlone(&r.Common)
	}
	counters, err := countTogether(ctx, r.ServiceConfig)
	if err != nil {
		return nil, err
	}
	return newEnforcer(&r.Common, counters)
}

func (r *serviceRunner) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	server, err := listen(serving, r.Address, r.TLS, r.Log, r.enforcer.register)
	if err != nil {
		return fmt.Errorf("starting the rate-limit service (choose where with --address, as host:port): %w", err)
	}
	var more []prometheus.Collector
	if r.Operator != "" {
		more = append(more, told(r.enforcer))
	}
	if r.Beside != nil {
		beside, measures := r.Beside(r.enforcer.limiter)
		more = append(more, measures)
		group.Go(func() error { return beside(ctx) })
	}
	if err := r.serveOperators(serving, group, r.console, r.enforcer, more...); err != nil {
		return err
	}
	obeying, err := r.obeying(ctx)
	if err != nil {
		return err
	}
	r.tell(server.listener.Addr().String())
	group.Go(server.serve)
	group.Go(func() error { return r.enforcer.run(serving) })
	group.Go(func() error {
		err := obeying(ctx)
		r.console.stopping()
		r.enforcer.leave()
		server.listener.Drain(r.Drain)
		server.stop()
		stopServing()
		return err
	})
	return group.Wait()
}

// obeying returns what puts in force what the limits are, until ctx ends.
func (r *serviceRunner) obeying(ctx context.Context) (func(context.Context) error, error) {
	if r.Operator != "" {
		return r.followOperator, nil
	}
	changes, err := manifest.Watch(ctx, r.Manifests)
	if err != nil {
		return nil, err
	}
	r.load(ctx)
	return func(ctx context.Context) error {
		follow(ctx, changes, r.Log, func(ctx context.Context) error {
			r.load(ctx)
			return nil
		})
		return nil
	}, nil
}

// followOperator obeys what was told last at once, so that a restart needs no operator.
func (r *serviceRunner) followOperator(ctx context.Context) error {
	credentials, err := r.TLS.ClientCredentials(r.OperatorName, r.Log)
	if err != nil {
		return err
	}
	return feed.Follow(ctx, feed.ClientConfig{
		Address: r.Operator, Credentials: credentials, Node: r.Identity, CacheFile: filepath.Join(r.DataDir, tableFile), Log: r.Log,
		Tell: r.enforcer.tell,
	}, func(t *policy.Table) {
		r.enforcer.obey(t)
		r.Log.DebugContext(ctx, "a table is in force", "version", t.Version())
	})
}

func (r *serviceRunner) tell(address string) {
	if r.Redis != nil {
		r.console.shares(r.Redis)
	}
	if r.Operator != "" {
		r.console.answers(address, r.Operator)
		return
	}
	r.console.limits(address, r.Manifests)
}

// load reads the manifests and puts what they say of limits in force.
func (r *serviceRunner) load(ctx context.Context) {
	now := r.source.read()
	r.enforcer.obey(now.table)
	r.console.loaded(r.Manifests, &now, nil, time.Now())
	r.source.keep(ctx, &now, r.Log)
}

// told says how long the operator has been away.
func told(e *enforcer) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tierkeeper_operator_away_seconds",
		Help: "Time since which the operator has told nothing, so that limits are those that it told last; 0 while it is connected.",
	}, func() float64 {
		since := e.down.Load()
		if since == nil || since.IsZero() {
			return 0
		}
		return time.Since(*since).Seconds()
	})
}
