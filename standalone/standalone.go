// Package standalone runs Tierkeeper without Kubernetes: it reads manifests from a directory that it watches, keeps the
// counters, answers Envoy, and keeps an Envoy running for each gateway. All of it is one process (Run), or the counters and
// the answers are one of their own (RunService).
//
// It decides nothing about limits. What it decides is what becomes of a running system when its surroundings change: a
// broken manifest keeps the last good state, an Envoy that dies is started again, counts outlive a restart.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/secret"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

const (
	// NoEnvoy as Config.Envoy leaves it to others to start Envoy.
	NoEnvoy = "none"
	// NoMetrics as Config.MetricsAddress serves none.
	NoMetrics = "none"
	// NoAdmin as Common.AdminAddress serves nothing.
	NoAdmin = "none"
)

const (
	loopback    = "127.0.0.1"
	counterFile = "counters.db"
	flushEvery  = time.Second // what a crash can lose of the counters
	sweepEvery  = time.Minute // how long counters of ended windows take up memory
	headerWait  = 10 * time.Second
	stopWait    = 5 * time.Second // for calls under way when the process stops
	serviceWait = 5 * time.Second // for a rate-limit service that is started at the same time
)

// Common is what both modes take. The zero value of each optional field is a sane default.
type Common struct {
	Manifests string // a directory, or one file
	DataDir   string // counters, the key that signs leases and what was last accepted; made if it is not there
	// LeaseKeyFile holds the key that signs leases, in one line, and in a second one, if there is one, the key that signed them
	// before. Empty: a file in DataDir, made if it is not there.
	LeaseKeyFile string
	// MetricsAddress is where Prometheus finds metrics, as host:port, or NoMetrics; empty: loopback, at a port of the kernel's
	// choice.
	MetricsAddress string
	// AdminAddress is where operators ask, as host:port, or NoAdmin; empty: loopback, at a port of the kernel's choice. One that
	// is not of loopback needs AdminTokenFile, whose content they must bring.
	AdminAddress   string
	AdminTokenFile string
	token          string // that the file holds; empty: none is needed
	// PprofAddress is where Go's profiler is served, as host:port; empty: nowhere. On loopback only programs of this machine may ask, and
	// elsewhere everybody.
	PprofAddress string

	Out io.Writer    // what people read
	Log *slog.Logger // what goes wrong
}

// Config says what Run runs.
type Config struct {
	Common

	Envoy   string // path of the binary, or NoEnvoy
	Address string // that listeners bind to; empty: 127.0.0.1
	Port    uint32 // in the place of the only listener's; 0: as the manifests say
	// Service is where the rate-limit service listens, as host:port on loopback; empty: it is part of this process.
	Service string
	// DemoUpstream starts a fake provider and sends the requests of every backend to it.
	DemoUpstream bool
	// ExampleKey is an API key to write into the curl lines that are printed; empty: $KEY.
	ExampleKey string

	// EnvoyLog is the level of Envoy's own log, which is written to EnvoyOut.
	EnvoyLog string
	EnvoyOut io.Writer
}

// Run serves until ctx ends, then stops everything in order and returns nil. It returns an error if it cannot start.
func Run(ctx context.Context, c Config) error {
	r, err := newRunner(&c)
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(ctx)
}

// runner is everything that runs.
type runner struct {
	*Config
	source   source
	console  *console
	enforcer *enforcer // nil: another process is the rate-limit service
	xds      *server.Server
	service  *service
	upstream *policy.Endpoint
	secrets  secret.Keeper
	fleet    *fleet
}

func newRunner(c *Config) (*runner, error) {
	if c.Address == "" {
		c.Address = loopback
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	source, err := c.prepare(stateFile)
	if err != nil {
		return nil, err
	}
	r := &runner{Config: c, source: source, console: newConsole(c.Out)}
	if c.Service == "" {
		if r.enforcer, err = enforceAlone(&c.Common); err != nil {
			return nil, err
		}
	}
	r.xds = server.New(r.report, nil)
	return r, nil
}

// prepare makes the data directory, and takes what is kept there of earlier runs.
func (c *Common) prepare(stateFile string) (source, error) {
	if _, err := os.Stat(c.Manifests); err != nil {
		return source{}, fmt.Errorf("looking for manifests: %w", err)
	}
	if err := c.prepareServers(); err != nil {
		return source{}, err
	}
	state, err := loadState(filepath.Join(c.DataDir, stateFile))
	return source{path: c.Manifests, state: state}, err
}

// prepareServers makes the data directory, and completes what is said about metrics and admin.
func (c *Common) prepareServers() error {
	if c.MetricsAddress == "" {
		c.MetricsAddress = net.JoinHostPort(loopback, "0")
	}
	if c.AdminAddress == "" {
		c.AdminAddress = net.JoinHostPort(loopback, "0")
	}
	if c.AdminAddress != NoAdmin {
		token, err := admin.Token(c.AdminAddress, c.AdminTokenFile)
		if err != nil {
			return fmt.Errorf("starting admin (see --admin-address and --admin-token-file): %w", err)
		}
		c.token = token
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	return nil
}

// resolve makes the paths that Envoy gets absolute, because it runs in a directory of its own.
func (c *Config) resolve() (err error) {
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	if c.Envoy == NoEnvoy {
		return nil
	}
	path, err := exec.LookPath(c.Envoy)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("finding Envoy (name the binary with --envoy, or start none with --envoy=none): %w", err)
	}
	c.Envoy = path
	return nil
}

func (r *runner) close() {
	if r.enforcer != nil {
		r.enforcer.close()
	}
}

// run starts the parts in the order in which they need each other, and stops them in the opposite order.
func (r *runner) run(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()

	at, err := r.listen(serving)
	if err != nil {
		return err
	}
	if r.DemoUpstream {
		if err := r.startUpstream(serving, group); err != nil {
			return err
		}
	}
	if err := r.serveOperators(serving, group, r.console, r.enforcer); err != nil {
		return err
	}
	changes, err := manifest.Watch(ctx, r.Manifests)
	if err != nil {
		return err
	}
	r.fleet = newFleet(r.Config, r.service.endpoint, at, r.console)
	if err := r.load(ctx); err != nil {
		r.Log.ErrorContext(ctx, "a gateway cannot be served", "error", err)
	}
	group.Go(r.service.serve)
	if r.Service != "" {
		group.Go(func() error {
			tellUnlessServing(ctx, r.Service, serviceWait, r.Log)
			return nil
		})
	}
	if r.enforcer != nil {
		group.Go(func() error { return r.enforcer.run(serving) })
	}
	group.Go(func() error {
		follow(ctx, changes, r.Log, r.load)
		// Envoy goes first, so that no request is refused because the service is gone. It tells nothing of the streams that it
		// cuts when it stops: their reservations stay charged until their windows end.
		r.console.stopping()
		r.fleet.wait()
		stopServing()
		r.service.stop()
		return nil
	})
	return group.Wait()
}

// listen opens the port that Envoys are told: for their configuration, and for the rate-limit service if it is part of this
// process. It returns where that service is.
func (r *runner) listen(ctx context.Context) (limits policy.Endpoint, err error) {
	if r.Service != "" {
		if limits, err = onLoopback(r.Service); err != nil {
			return limits, fmt.Errorf("finding the rate-limit service (name it with --service, as host:port): %w", err)
		}
	}
	r.service, err = listen(ctx, net.JoinHostPort(loopback, "0"), mtls.Files{}, r.Log, func(g *grpc.Server) {
		r.xds.Register(ctx, g)
		if r.enforcer != nil {
			r.enforcer.register(g)
		}
	})
	if err != nil {
		return limits, fmt.Errorf("starting what Envoys ask: %w", err)
	}
	if r.enforcer != nil {
		limits = r.service.endpoint
	}
	return limits, nil
}

// check finds out what would make a start useless.
func (r *runner) check(ctx context.Context) error {
	if r.Envoy == NoEnvoy {
		return nil
	}
	if err := checkEnvoy(ctx, r.Envoy); err != nil {
		return err
	}
	if r.Port == 0 {
		return nil // The fleet looks when it knows the ports.
	}
	return checkFree(ctx, net.JoinHostPort(r.Address, strconv.FormatUint(uint64(r.Port), 10)))
}

// load reads the manifests and puts what they say in force: first the service, so that it knows a gateway before an Envoy
// asks about it.
func (r *runner) load(ctx context.Context) error {
	now := r.source.read()
	if r.enforcer != nil {
		r.enforcer.obey(now.table)
	}
	r.secrets.Update(now.table.Gateways(), now.found.Input.Usable, func(v policy.SecretValue) []byte { return now.found.Secrets[v.Secret].Value(v.Key) })
	err := r.publish(ctx, now.table)
	r.console.loaded(r.Manifests, &now, &r.secrets, time.Now())
	r.source.keep(ctx, &now, r.Log)
	return err
}

// publish tells the Envoys of each gateway. A gateway that cannot be told costs only itself.
func (r *runner) publish(ctx context.Context, t *policy.Table) error {
	settings := envoy.Settings{BindAddress: r.Address, Port: r.Port, Upstream: r.upstream, Secrets: r.secrets.Value, SystemRoots: r.secrets.SystemRoots()}
	gateways, errs := onePortEach(t.Gateways(), r.Port, r.source.state.ports)
	r.source.state.ports = holders(gateways, r.Port)
	if len(settings.SystemRoots) == 0 && r.upstream == nil && slices.ContainsFunc(gateways, trustsSystem) {
		r.Log.WarnContext(ctx, "requests to backends with trust: System are answered 503: this machine has no certificates of authorities; name a file by SSL_CERT_FILE")
	}
	for _, g := range gateways {
		resources, err := envoy.Build(g, settings)
		if err == nil {
			err = r.xds.Publish(ctx, g.Name, resources, 0)
		}
		errs = append(errs, err)
	}
	for _, gone := range r.fleet.adopt(ctx, gateways) {
		errs = append(errs, r.xds.Withdraw(ctx, gone))
	}
	return errors.Join(errs...)
}

func trustsSystem(g *policy.Gateway) bool {
	return slices.ContainsFunc(g.Backends, func(b policy.Backend) bool { return b.TLS != nil && b.TLS.CABundle == nil })
}

// onePortEach leaves out gateways whose port another one has: here all Envoys run on one machine, and two of them would
// share the port without a word. Who held a port before keeps it, also over a restart: nobody takes it, and the keys that
// clients send there, by a name that sorts first.
func onePortEach(all []*policy.Gateway, override uint32, held map[uint32]policy.Name) (gateways []*policy.Gateway, errs []error) {
	taken := map[uint32]policy.Name{}
	for _, g := range all {
		for _, p := range portsOf(g, override) {
			if held[p] == g.Name {
				taken[p] = g.Name
			}
		}
	}
	for _, g := range all {
		ports := portsOf(g, override)
		i := slices.IndexFunc(ports, func(p uint32) bool { return taken[p] != policy.Name{} && taken[p] != g.Name })
		switch {
		case override != 0 && (i >= 0 || len(g.Listeners) > 1):
			errs = append(errs, fmt.Errorf("QuotaGateway %s is not served: --port is for one gateway with one listener; leave it out, and each listener has its own", g.Name))
			continue
		case i >= 0:
			errs = append(errs, fmt.Errorf("QuotaGateway %s is not served: %s has port %d already", g.Name, taken[ports[i]], ports[i]))
			continue
		}
		for _, p := range ports {
			taken[p] = g.Name
		}
		gateways = append(gateways, g)
	}
	return gateways, errs
}

// holders says which of the gateways that are served has which port.
func holders(gateways []*policy.Gateway, override uint32) map[uint32]policy.Name {
	all := map[uint32]policy.Name{}
	for _, g := range gateways {
		for _, p := range portsOf(g, override) {
			all[p] = g.Name
		}
	}
	return all
}

func portsOf(g *policy.Gateway, override uint32) []uint32 {
	if override != 0 {
		return []uint32{override}
	}
	var ports []uint32
	for _, l := range g.Listeners {
		ports = append(ports, l.Port)
	}
	return ports
}

// report takes what an Envoy made of its configuration.
func (r *runner) report(report server.Report) {
	if report.Err != "" {
		r.console.rejected(report)
	}
}

func (r *runner) startUpstream(ctx context.Context, group *errgroup.Group) error {
	address, err := serveHTTP(ctx, group, "the demo upstream", net.JoinHostPort(loopback, "0"), demo.New())
	if err != nil {
		return err
	}
	at, err := envoy.SplitAddress(address)
	if err != nil {
		return err
	}
	r.upstream = &at
	r.console.upstream(address)
	return nil
}
