package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

// An Upstream is a provider that answers at once.
type Upstream struct {
	process *child.Process
	port    int
}

// StartUpstream runs a provider in a new directory below dir.
func StartUpstream(ctx context.Context, p Programs, dir string) (*Upstream, error) {
	dir, err := os.MkdirTemp(dir, "upstream-")
	if err != nil {
		return nil, fmt.Errorf("making the directory of the upstream: %w", err)
	}
	port, err := holdPort()
	if err != nil {
		return nil, err
	}
	address := at(port)
	running, err := run(ctx, dir, "the upstream", address, nil, []string{p.Self, "upstream", "--address", address})
	if err != nil {
		return nil, err
	}
	return &Upstream{running, port}, nil
}

// CPU is the time that it has computed.
func (u *Upstream) CPU() (time.Duration, error) { return meter.CPU(u.process.PID()) }

// Stop stops it.
func (u *Upstream) Stop() { _ = u.process.Stop() }

// A Gateway is an Envoy that asks a Server, and the Tierkeeper that configures it.
type Gateway struct {
	Address string
	process *child.Process
	log     string // the file with what both say
}

// asksNobody runs an Envoy that passes requests without asking about them, by a setting that its rate limit filter knows.
const asksNobody = `#!/bin/sh
exec '%s' "$@" --config-yaml '{layered_runtime: {layers: [{name: bench, static_layer: {ratelimit.http_filter_enabled: 0}}]}}'
`

// StartGateway runs an Envoy before an upstream, in a new directory below dir. Subjects are those of the Server. Unless it asks the Server,
// it asks nobody, and nothing else of it differs.
func StartGateway(ctx context.Context, p Programs, s *Server, u *Upstream, asks bool, dir string) (*Gateway, error) {
	dir, err := os.MkdirTemp(dir, "gateway-")
	if err != nil {
		return nil, fmt.Errorf("making the directory of an Envoy: %w", err)
	}
	manifests := filepath.Join(dir, "manifests")
	if err := write(filepath.Join(manifests, "all.yaml"), s.setup.Manifests(s.Concurrency, u.port)); err != nil {
		return nil, err
	}
	envoy := p.Envoy
	if !asks {
		envoy = filepath.Join(dir, "envoy")
		if err := child.WriteScript(envoy, fmt.Sprintf(asksNobody, p.Envoy)); err != nil {
			return nil, fmt.Errorf("writing how to run Envoy: %w", err)
		}
	}
	port, err := holdPort()
	if err != nil {
		return nil, err
	}
	running, err := run(ctx, dir, "the Envoy before "+s.Name, at(port), nil, []string{
		p.Tierkeeper, "standalone", "--manifests", manifests, "--data-dir", filepath.Join(dir, "data"), "--service", s.Address,
		"--envoy", envoy, "--port", strconv.Itoa(port), "--metrics-address", "none", "--admin-address", "none", "--log-level", "error",
	})
	if err != nil {
		return nil, err
	}
	return &Gateway{at(port), running, filepath.Join(dir, logName)}, nil
}

// CPU is the time that Envoy has computed, and Tierkeeper beside it.
func (g *Gateway) CPU() (envoy, besides time.Duration, err error) {
	if besides, err = meter.CPU(g.process.PID()); err != nil {
		return 0, 0, err
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", g.process.PID()))
	if err != nil {
		return 0, 0, fmt.Errorf("looking for Envoy: %w", err)
	}
	found := false
	for _, path := range children {
		told, err := os.ReadFile(path) //nolint:gosec // It is in /proc.
		if err != nil {
			continue // The thread has ended.
		}
		for pid := range strings.FieldsSeq(string(told)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				return 0, 0, fmt.Errorf("looking for Envoy: %w", err)
			}
			took, err := meter.CPU(n)
			if err != nil {
				return 0, 0, err
			}
			envoy, found = envoy+took, true
		}
	}
	if !found {
		return 0, 0, fmt.Errorf("no Envoy runs any more: %s", said(g.log))
	}
	return envoy, besides, nil
}

// Stop stops both.
func (g *Gateway) Stop() { _ = g.process.Stop() }
