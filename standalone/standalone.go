// Package standalone runs everything in one process without Kubernetes: it reads manifests from a directory that it watches,
// keeps the counters, answers Envoy, and keeps an Envoy running for each gateway.
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

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

const (
	// NoEnvoy as Config.Envoy leaves it to others to start Envoy.
	NoEnvoy = "none"
	// NoMetrics as Config.MetricsAddress serves none.
	NoMetrics = "none"
	// NoAdmin as Config.AdminAddress serves nothing.
	NoAdmin = "none"
)

const (
	loopback    = "127.0.0.1"
	counterFile = "counters.db"
	flushEvery  = time.Second // what a crash can lose of the counters
	sweepEvery  = time.Minute // how long counters of ended windows take up memory
	headerWait  = 10 * time.Second
	stopWait    = 5 * time.Second // for calls under way when the process stops
)

// Config says what to run. The zero value of each optional field is a sane default.
type Config struct {
	Manifests string // a directory, or one file
	DataDir   string // counters and what was last accepted; made if it is not there
	Envoy     string // path of the binary, or NoEnvoy
	Address   string // that listeners bind to; empty: 127.0.0.1
	Port      uint32 // in the place of the only listener's; 0: as the manifests say
	// MetricsAddress is where Prometheus finds metrics, as host:port, or NoMetrics; empty: loopback, at a port of the kernel's
	// choice.
	MetricsAddress string
	// AdminAddress is where operators ask, as host:port, or NoAdmin; empty: loopback, at a port of the kernel's choice. One that
	// is not of loopback needs AdminTokenFile, whose content they must bring.
	AdminAddress   string
	AdminTokenFile string
	// DemoUpstream starts a fake provider and sends the requests of every backend to it.
	DemoUpstream bool
	// ExampleKey is an API key to write into the curl lines that are printed; empty: $KEY.
	ExampleKey string

	Out io.Writer    // what people read
	Log *slog.Logger // what goes wrong
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
	console  *console
	token    string // of operators; empty: none is needed
	store    *memory.Store
	failures *memory.Failures
	limiter  *ratelimit.Limiter
	xds      *server.Server
	service  *service
	upstream *policy.Endpoint
	loader   manifest.Loader
	lost     func(policy.Object) bool // what could not be read at the start; see restore
	state    *state
	secrets  secrets
	fleet    *fleet
}

func newRunner(c *Config) (*runner, error) {
	if c.Address == "" {
		c.Address = loopback
	}
	if c.MetricsAddress == "" {
		c.MetricsAddress = net.JoinHostPort(loopback, "0")
	}
	if c.AdminAddress == "" {
		c.AdminAddress = net.JoinHostPort(loopback, "0")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	token, err := c.adminToken()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	store, err := memory.Load(filepath.Join(c.DataDir, counterFile), time.Now())
	if err != nil {
		return nil, err
	}
	r := &runner{Config: c, console: newConsole(c.Out), token: token, store: store, failures: memory.NewFailures()}
	if r.state, err = loadState(c.DataDir); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	secret, err := signingKey()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	r.limiter = ratelimit.New(store, secret, ratelimit.WithFailures(r.failures), ratelimit.WithLog(c.Log))
	r.xds = server.New(r.report)
	return r, nil
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

func (c *Config) adminToken() (string, error) {
	if c.AdminAddress == NoAdmin {
		return "", nil
	}
	token, err := admin.Token(c.AdminAddress, c.AdminTokenFile)
	if err != nil {
		return "", fmt.Errorf("starting admin (see --admin-address and --admin-token-file): %w", err)
	}
	return token, nil
}

func (r *runner) close() {
	if err := r.store.Flush(time.Now()); err != nil {
		r.Log.Error("could not write the counters", "error", err)
	}
	if err := r.store.Close(); err != nil {
		r.Log.Error("could not close the counter file", "error", err)
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

	var err error
	if r.service, err = listen(serving, r.limiter, r.xds, r.Log); err != nil {
		return err
	}
	if r.DemoUpstream {
		if err := r.startUpstream(serving, group); err != nil {
			return err
		}
	}
	if r.MetricsAddress != NoMetrics {
		if err := r.startMetrics(serving, group); err != nil {
			return err
		}
	}
	if r.AdminAddress != NoAdmin {
		if err := r.startAdmin(serving, group); err != nil {
			return err
		}
	}
	changes, err := manifest.Watch(ctx, r.Manifests)
	if err != nil {
		return err
	}
	r.fleet = newFleet(r.Config, r.service.endpoint, r.console)
	if err := r.load(ctx); err != nil {
		r.Log.ErrorContext(ctx, "a gateway cannot be served", "error", err)
	}
	group.Go(r.service.serve)
	group.Go(func() error {
		r.keepCounters(ctx)
		return nil
	})
	group.Go(func() error {
		r.follow(ctx, changes)
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

// check finds out what would make a start useless.
func (r *runner) check(ctx context.Context) error {
	if _, err := os.Stat(r.Manifests); err != nil {
		return fmt.Errorf("looking for manifests: %w", err)
	}
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

// follow puts each change of the manifests in force, until ctx ends.
func (r *runner) follow(ctx context.Context, changes <-chan manifest.Change) {
	for {
		select {
		case <-ctx.Done():
			return
		case change, ok := <-changes:
			if !ok {
				changes = nil // Nothing more will come.
				continue
			}
			if change.Err != nil {
				r.Log.WarnContext(ctx, "not everything is watched: an edit may go unseen", "error", change.Err)
			}
			if err := r.load(ctx); err != nil {
				r.Log.ErrorContext(ctx, "the last good state holds", "error", err)
			}
		}
	}
}

// keepCounters writes what was counted and forgets what is over, until ctx ends. It waits for nothing else: however long a
// reload takes, a crash loses no more than a second.
func (r *runner) keepCounters(ctx context.Context) {
	flush, sweep := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-sweep.C:
			r.store.Sweep(now)
			r.failures.Sweep(now)
		case now := <-flush.C:
			if err := r.store.Flush(now); err != nil {
				r.Log.ErrorContext(ctx, "could not write the counters", "error", err)
			}
		}
	}
}

// load reads the manifests and puts what they say in force: first the service, so that it knows a gateway before an Envoy
// asks about it.
func (r *runner) load(ctx context.Context) error {
	found := r.loader.Load(r.Manifests)
	in := found.Input
	in.LastAccepted = r.state.accepted
	r.restore(&in, &found)
	table, verdicts := policy.Compile(in)
	r.limiter.SetTable(table)
	r.secrets.update(&found, table.Gateways())
	err := r.publish(ctx, table)
	r.console.loaded(r.Manifests, table, &r.secrets, &found, verdicts, time.Now())
	if err := r.state.keep(table.Accepted()); err != nil {
		r.Log.ErrorContext(ctx, "could not keep what was accepted", "error", err)
	}
	return err
}

// restore lets what cannot be read at the start go on as it was last accepted, until everything can be read again. Later the
// loader itself remembers; what is deleted then is gone, whatever else is broken.
func (r *runner) restore(in *policy.Input, found *manifest.Result) {
	if r.lost == nil {
		r.lost = lostAtStart(found.Problems)
	}
	if len(found.Problems) == 0 {
		r.lost = func(policy.Object) bool { return false }
	}
	in.LastAccepted.Restore(in, r.lost)
}

// lostAtStart names the objects that problems may hide: the one that a problem names, and any if a document cannot be read.
func lostAtStart(problems []manifest.Problem) func(policy.Object) bool {
	named, unreadable := map[policy.Object]bool{}, false
	for _, p := range problems {
		named[p.Object] = true
		unreadable = unreadable || p.Reason == manifest.ReasonUnreadable
	}
	return func(o policy.Object) bool { return unreadable || named[o] }
}

// publish tells the Envoys of each gateway. A gateway that cannot be told costs only itself.
func (r *runner) publish(ctx context.Context, t *policy.Table) error {
	settings := envoy.Settings{BindAddress: r.Address, Port: r.Port, Upstream: r.upstream, Secrets: r.secrets.value, SystemRoots: r.secrets.systemRoots()}
	gateways, errs := onePortEach(t.Gateways(), r.Port, r.state.ports)
	r.state.ports = holders(gateways, r.Port)
	if len(settings.SystemRoots) == 0 && r.upstream == nil && slices.ContainsFunc(gateways, trustsSystem) {
		r.Log.WarnContext(ctx, "requests to backends with trust: System are answered 503: this machine has no certificates of authorities; name a file by SSL_CERT_FILE")
	}
	for _, g := range gateways {
		resources, err := envoy.Build(g, settings)
		if err == nil {
			err = r.xds.Publish(ctx, g.Name, resources)
		}
		errs = append(errs, err)
	}
	for _, gone := range r.fleet.adopt(ctx, gateways) {
		errs = append(errs, r.xds.Withdraw(ctx, gone))
	}
	return errors.Join(errs...)
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

func (r *runner) startMetrics(ctx context.Context, group *errgroup.Group) error {
	address, err := serveHTTP(ctx, group, "metrics (choose another address, or none, with --metrics-address)", r.MetricsAddress, metrics(r.limiter, forgotten(r.failures)))
	if err != nil {
		return err
	}
	r.console.metrics(address)
	return nil
}

func (r *runner) startAdmin(ctx context.Context, group *errgroup.Group) error {
	address, err := serveHTTP(ctx, group, "admin (choose another address, or none, with --admin-address)", r.AdminAddress, admin.Handler(r.limiter, r.token))
	if err != nil {
		return err
	}
	r.console.admin(address)
	return nil
}
