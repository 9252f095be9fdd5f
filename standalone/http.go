package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/mtls"
)

// serveHTTP serves until ctx ends, and returns where. What is the name of what is served, for errors.
func serveHTTP(ctx context.Context, group *errgroup.Group, what, address string, handler http.Handler) (at string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return "", fmt.Errorf("starting %s: %w", what, err)
	}
	s := &http.Server{Handler: handler, ReadHeaderTimeout: headerWait}
	group.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving %s: %w", what, err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	return l.Addr().String(), nil
}

// forgotten counts those whose failures were forgotten before their time.
func forgotten(f interface{ Forgotten() int64 }) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tierkeeper_abuse_forgotten_total",
		Help: "ApiKeyQuotas and client addresses whose failures, or block, were forgotten early because too many failed.",
	}, func() float64 { return float64(f.Forgotten()) })
}

// serveOperators serves what is for those who run the process: metrics, admin and the profiler.
func (c *Common) serveOperators(ctx context.Context, group *errgroup.Group, tell *console, e *enforcer, more ...prometheus.Collector) error {
	if err := c.serveMetrics(ctx, group, tell, e, more...); err != nil {
		return err
	}
	if err := c.serveAdmin(ctx, group, tell, e); err != nil {
		return err
	}
	return c.servePprof(ctx, group)
}

// serveMetrics serves the metrics of the process, and of the limits if it holds any, unless none are wanted.
func (c *Common) serveMetrics(ctx context.Context, group *errgroup.Group, tell *console, e *enforcer, more ...prometheus.Collector) error {
	if c.MetricsAddress == NoMetrics {
		return nil
	}
	mux, all := http.NewServeMux(), more
	if e != nil {
		all = append(append(all, e.limiter, forgotten(e.failures)), e.measures...)
		mux.HandleFunc("GET /readyz", e.ready)
	}
	mux.Handle("GET /metrics", metrics(all...))
	handler := http.Handler(mux)
	if mtls.IsLoopback(c.MetricsAddress) {
		handler = admin.OnlyPrograms(handler) // They name keys and objects of all namespaces.
	}
	address, err := serveHTTP(ctx, group, "metrics (choose another address, or none, with --metrics-address)", c.MetricsAddress, handler)
	if err != nil {
		return err
	}
	tell.metrics(address)
	return nil
}

// serveAdmin serves what operators ask of the limits, unless nobody may ask, or another process holds them.
func (c *Common) serveAdmin(ctx context.Context, group *errgroup.Group, tell *console, e *enforcer) error {
	if c.AdminAddress == NoAdmin || e == nil {
		return nil
	}
	address, err := serveHTTP(ctx, group, "admin (choose another address, or none, with --admin-address)", c.AdminAddress, admin.Handler(e.limiter, c.token))
	if err != nil {
		return err
	}
	tell.admin(address)
	return nil
}

// servePprof serves Go's profiler, where one is wanted.
func (c *Common) servePprof(ctx context.Context, group *errgroup.Group) error {
	if c.PprofAddress == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	handler := http.Handler(mux)
	if mtls.IsLoopback(c.PprofAddress) {
		handler = admin.OnlyPrograms(handler)
	}
	_, err := serveHTTP(ctx, group, "the profiler (choose another address with --pprof-address)", c.PprofAddress, handler)
	return err
}

// metrics serves the metrics of the process and of what the collectors know.
func metrics(all ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(append(all, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
