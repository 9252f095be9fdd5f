package standalone

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tierkeeper/tierkeeper/manifest"
)

// ServiceConfig says what RunService runs.
type ServiceConfig struct {
	Common

	Address string // to listen on, as host:port on loopback; port 0: one of the kernel's choice
}

// RunService serves the rate-limit service alone until ctx ends, then stops in order and returns nil. It returns an error if
// it cannot start.
func RunService(ctx context.Context, c ServiceConfig) error {
	source, err := c.prepare(serviceStateFile)
	if err != nil {
		return err
	}
	e, err := newEnforcer(&c.Common)
	if err != nil {
		return err
	}
	defer e.close()
	r := &serviceRunner{ServiceConfig: &c, source: source, enforcer: e, console: newConsole(c.Out)}
	return r.run(ctx)
}

// serviceRunner is everything that runs of the rate-limit service.
type serviceRunner struct {
	*ServiceConfig
	source   source
	enforcer *enforcer
	console  *console
}

func (r *serviceRunner) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	server, err := listen(serving, r.Address, r.enforcer.register)
	if err != nil {
		return fmt.Errorf("starting the rate-limit service (choose where with --address, as host:port): %w", err)
	}
	if err := r.serveMetrics(serving, group, r.console, r.enforcer); err != nil {
		return err
	}
	if err := r.serveAdmin(serving, group, r.console, r.enforcer); err != nil {
		return err
	}
	changes, err := manifest.Watch(ctx, r.Manifests)
	if err != nil {
		return err
	}
	r.load(ctx)
	r.console.limits(server.listener.Addr().String(), r.Manifests)
	group.Go(server.serve)
	group.Go(func() error { return r.enforcer.run(serving) })
	group.Go(func() error {
		follow(ctx, changes, r.Log, func(ctx context.Context) error {
			r.load(ctx)
			return nil
		})
		r.console.stopping()
		r.enforcer.leave()
		server.stop()
		stopServing()
		return nil
	})
	return group.Wait()
}

// load reads the manifests and puts what they say of limits in force.
func (r *serviceRunner) load(ctx context.Context) {
	now := r.source.read()
	r.enforcer.obey(now.table)
	r.console.loaded(r.Manifests, &now, nil, time.Now())
	r.source.keep(ctx, &now, r.Log)
}
