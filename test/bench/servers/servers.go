// Package servers decides which rate-limit services are measured side by side, how each is started, and that all of them have the
// same limits.
package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/test/bench/calls"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

const loopback = "127.0.0.1"

// at is the address of a port of loopback.
func at(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// Programs are the paths of the programs that are started.
type Programs struct {
	Self       string // has the command floor
	Tierkeeper string
	Peer       string // envoyproxy/ratelimit; empty: its variants are not available
	Redis      string // redis-server; empty: what needs it is not available
	Envoy      string
}

// An UnavailableError says that a variant cannot be measured here.
type UnavailableError struct{ Variant, Reason string }

// Error implements error.
func (e *UnavailableError) Error() string { return e.Variant + " is not available: " + e.Reason }

// A Server is a variant that runs. It is safe for concurrent use.
type Server struct {
	Variant

	Address string
	Pprof   string // where the variant is told to serve profiles, if it is
	setup   Setup
	metrics string
	process *child.Process
	redis   *redis // nothing, where it needs none
}

// Start runs a variant in a new directory below dir.
func Start(ctx context.Context, p Programs, v Variant, setup Setup, dir string) (*Server, error) {
	if reason := p.lack(v); reason != "" {
		return nil, &UnavailableError{v.Name, reason}
	}
	dir, err := os.MkdirTemp(dir, "server-")
	if err != nil {
		return nil, fmt.Errorf("making the directory of %s: %w", v.Name, err)
	}
	s := &Server{Variant: v, setup: setup}
	if err := s.start(ctx, p, dir); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// lack says which program is missing for a variant.
func (p Programs) lack(v Variant) string {
	switch {
	case v.Redis && p.Redis == "":
		return "there is no redis-server"
	case v.Command[0] == "{peer}" && p.Peer == "":
		return "there is no envoyproxy/ratelimit"
	default:
		return ""
	}
}

func (s *Server) start(ctx context.Context, p Programs, dir string) (err error) {
	store := ""
	if s.Redis {
		if s.redis, err = startRedis(ctx, p.Redis, dir); err != nil {
			return err
		}
		store = s.redis.address
	}
	var ports [3]int
	for i := range ports {
		if ports[i], err = holdPort(); err != nil {
			return err
		}
	}
	s.Address, s.Pprof = at(ports[0]), at(ports[2])
	if s.Metrics {
		s.metrics = "http://" + at(ports[1]) + "/metrics"
	}
	manifests, leaseKey := filepath.Join(dir, "manifests"), filepath.Join(dir, "lease.key")
	err = errors.Join(
		write(leaseKey, strings.Repeat("0123456789abcdef", 4)),
		write(filepath.Join(manifests, "all.yaml"), s.setup.Manifests(s.Concurrency, 9)), // The service asks no provider.
		write(filepath.Join(dir, "ratelimit", "config", "bench.yaml"), s.setup.peerConfig()),
	)
	if err != nil {
		return err
	}
	places := strings.NewReplacer(
		"{self}", p.Self, "{tierkeeper}", p.Tierkeeper, "{peer}", p.Peer, "{redis}", store, "{dir}", dir, "{manifests}", manifests,
		"{lease-key}", leaseKey,
		"{address}", s.Address, "{port}", strconv.Itoa(ports[0]), "{metrics}", at(ports[1]), "{metrics-port}", strconv.Itoa(ports[1]),
		"{other-port}", strconv.Itoa(ports[2]), "{pprof}", s.Pprof,
	)
	s.process, err = run(ctx, dir, s.Name, s.Address, filled(places, s.Env), filled(places, s.Command))
	return err
}

func filled(r *strings.Replacer, all []string) []string {
	var out []string
	for _, text := range all {
		out = append(out, r.Replace(text))
	}
	return out
}

func write(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("writing a configuration: %w", err)
	}
	return nil
}

// Stop stops what Start has started.
func (s *Server) Stop() {
	if s.process != nil {
		_ = s.process.Stop() // It is gone, in order or not.
	}
	if s.redis != nil {
		_ = s.redis.Stop()
	}
}

// Calls are one call of each subject of a kind.
func (s *Server) Calls(k Kind) ([]load.Call, error) {
	all := make([]load.Call, s.setup.Subjects(k))
	for i := range all {
		call, err := calls.GRPC(s.Ask(k, i, s.setup.Limits))
		if err != nil {
			return nil, err
		}
		all[i] = call
	}
	return all, nil
}

// A Reading is what a server has taken since it began.
type Reading struct {
	CPU, RedisCPU time.Duration
	Memory        int64 // bytes, now
}

// Meters are read without work for the server.
func (s *Server) Meters(ctx context.Context) (r Reading, err error) {
	if s.redis != nil {
		if r.RedisCPU, err = s.redis.cpu(ctx); err != nil {
			return r, err
		}
	}
	if r.CPU, err = meter.CPU(s.process.PID()); err != nil {
		return r, err
	}
	r.Memory, err = meter.Memory(s.process.PID())
	return r, err
}

// Allocations is how many a server has made since it began; 0 where it does not tell. It is work for the server.
func (s *Server) Allocations(ctx context.Context) (uint64, error) {
	if s.metrics == "" {
		return 0, nil
	}
	return allocations(ctx, s.metrics)
}

// allocations is how many a program has made so far, as its metrics tell.
func allocations(ctx context.Context, url string) (uint64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("reading metrics: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("reading metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("reading metrics: %w", err)
			}
			return uint64(n), nil
		}
	}
	return 0, fmt.Errorf("%s does not tell how much was allocated", url)
}
