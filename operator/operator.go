// Package operator runs the controllers of a cluster, and the server that tells the data plane what comes of them. It decides
// in which order the parts start and stop, and who may reach them.
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/grpcserver"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// None as an address serves nothing there.
const None = "none"

// stopWait is how long a stop waits for others.
const stopWait = 3 * time.Second

// clientRate is how many requests a second this process sends to the API server at most, beside its watches.
const clientRate = 200

// Config says what Run runs.
type Config struct {
	Cluster   *rest.Config
	Namespace string // of the operator
	Identity  string // of this replica: the name of its pod
	Version   string // of the program

	// Address is where Envoys and the rate-limit service are told what holds, as host:port; beyond loopback only with TLS.
	Address string
	TLS     mtls.Files

	SecretNamespaces []string // whose Secrets are read; none: all

	MetricsAddress string // HTTPS, for whom the cluster lets read metrics; None: nowhere
	HealthAddress  string // HTTP; None: nowhere
	PprofAddress   string // HTTP, unprotected; empty: nowhere

	BindAddress string           // that listeners of Envoys bind to; empty: all of IPv4
	Upstream    *policy.Endpoint // takes the place of every backend, to try gateways without their providers; nil: none does

	LeaseDuration   time.Duration // 0: controllers.DefaultLeaseDuration
	WritesPerSecond float64       // of status; 0: controllers.DefaultWritesPerSecond

	Log *slog.Logger
	// Serving is called with the address, once Envoys and services are answered there; nil: nobody wants to know.
	Serving func(address string)
}

// Run runs a replica of the operator until ctx ends, then stops in order and returns nil. It returns an error if it cannot start.
func Run(ctx context.Context, c Config) error {
	if err := c.TLS.CheckAddress(c.Address); err != nil {
		return fmt.Errorf("starting what Envoys and the rate-limit service ask (--address): %w", err)
	}
	credentials, err := c.TLS.ServerCredentials(c.Log)
	if err != nil {
		return err
	}
	if !c.TLS.Given() {
		c.Log.Warn("without --cert, --key and --ca configuration is served on this machine only: Envoys and services elsewhere cannot connect", "address", c.Address)
	}
	mgr, err := c.manager()
	if err != nil {
		return err
	}
	p := newPublisher(envoy.Settings{BindAddress: c.BindAddress, Upstream: c.Upstream}, c.Log)
	controllers, err := controllers.Add(mgr, controllers.Options{
		Publisher: p, Namespace: c.Namespace, Identity: c.Identity, Version: c.Version, SecretNamespaces: c.SecretNamespaces,
		LeaseDuration: c.LeaseDuration, WritesPerSecond: c.WritesPerSecond,
	})
	if err != nil {
		return err
	}
	serve := &serving{Config: &c, publisher: p, options: []grpc.ServerOption{grpc.Creds(credentials)}}
	if err := errors.Join(
		mgr.AddHealthzCheck("alive", func(*http.Request) error { return controllers.Alive() }),
		mgr.AddReadyzCheck("compiled", func(*http.Request) error { return controllers.Ready() }),
		mgr.Add(serve),
	); err != nil {
		return fmt.Errorf("starting the operator: %w", err)
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the operator: %w", err)
	}
	return nil
}

// manager has the caches and the servers for people and probes. Leaders are elected by the controllers themselves.
func (c *Config) manager() (manager.Manager, error) {
	cluster := rest.CopyConfig(c.Cluster)
	cluster.QPS, cluster.Burst = clientRate, 2*clientRate
	cluster.UserAgent = "tierkeeper-operator/" + c.Version
	log := logr.FromSlogHandler(c.Log.Handler())
	ctrl.SetLogger(log)
	mgr, err := ctrl.NewManager(cluster, manager.Options{
		Scheme: controllers.Scheme(), Cache: controllers.CacheOptions(c.Namespace, c.SecretNamespaces), Logger: log,
		Metrics:                c.metrics(),
		HealthProbeBindAddress: orNowhere(c.HealthAddress),
		PprofBindAddress:       c.PprofAddress,
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	for _, m := range controllers.Metrics() {
		_ = metrics.Registry.Register(m) // It is there already where several replicas run in one process.
	}
	return mgr, nil
}

func (c *Config) metrics() metricsserver.Options {
	return metricsserver.Options{BindAddress: orNowhere(c.MetricsAddress), SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization}
}

// orNowhere is what controller-runtime calls an address that serves nothing.
func orNowhere(address string) string {
	if address == None {
		return "0"
	}
	return address
}

// serving is the server that Envoys and rate-limit services ask.
type serving struct {
	*Config

	publisher *publisher
	options   []grpc.ServerOption
}

// NeedLeaderElection says that every replica serves.
func (*serving) NeedLeaderElection() bool { return false }

// Start serves until ctx ends. Streams end with it, so that those who are connected find another replica.
func (s *serving) Start(ctx context.Context) error {
	l, err := grpcserver.Listen(ctx, s.Address)
	if err != nil {
		return fmt.Errorf("starting what Envoys and the rate-limit service ask (choose where with --address): %w", err)
	}
	g := grpc.NewServer(append(s.options, grpcserver.Options()...)...)
	s.publisher.xds.Register(ctx, g)
	s.publisher.feed.Register(ctx, g)
	if s.Serving != nil {
		s.Serving(l.Addr().String())
	}
	s.Log.Info("serving Envoys and the rate-limit service", "address", l.Addr().String())
	stopped := make(chan struct{})
	go func() {
		<-ctx.Done()
		l.Stop(g, stopWait)
		close(stopped)
	}()
	if err := g.Serve(l); err != nil {
		return fmt.Errorf("serving Envoys and the rate-limit service: %w", err)
	}
	<-stopped
	return nil
}
