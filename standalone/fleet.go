package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

const (
	restartFirst = 250 * time.Millisecond // pause before an Envoy that died is started again
	restartMost  = 5 * time.Second        // the pause doubles up to this
	steady       = 10 * time.Second       // an Envoy that lived so long starts again after the first pause
)

// fleet keeps one Envoy running for each gateway. A gateway that is gone keeps its Envoy, which then serves nothing, until
// the process ends: it may come back with the next edit. It is not safe for concurrent use.
type fleet struct {
	*Config
	xds, service policy.Endpoint
	console      *console

	running sync.WaitGroup
	known   map[policy.Name]bool // has an Envoy
	served  map[policy.Name]bool // was there at the last adopt
}

func newFleet(c *Config, xds, service policy.Endpoint, con *console) *fleet {
	return &fleet{Config: c, xds: xds, service: service, console: con, known: map[policy.Name]bool{}, served: map[policy.Name]bool{}}
}

// adopt sees to it that an Envoy runs for each of the gateways until ctx ends, and names those that were there before and
// are gone.
func (f *fleet) adopt(ctx context.Context, gateways []*policy.Gateway) (gone []policy.Name) {
	serve := map[policy.Name]bool{}
	for _, g := range gateways {
		serve[g.Name] = true
		if !f.known[g.Name] {
			f.known[g.Name] = true
			f.running.Go(func() { f.keep(ctx, g) })
		}
	}
	for name := range f.served {
		if !serve[name] {
			gone = append(gone, name)
		}
	}
	f.served = serve
	return gone
}

// wait returns when all Envoys have stopped.
func (f *fleet) wait() { f.running.Wait() }

// keep starts the gateway's Envoy, or tells how to.
func (f *fleet) keep(ctx context.Context, g *policy.Gateway) {
	path, err := f.writeBootstrap(g)
	switch {
	case err != nil:
		f.Log.ErrorContext(ctx, "could not start an Envoy", "gateway", g.Name.String(), "error", err)
	case f.Envoy == NoEnvoy:
		f.console.bootstrap(g, path)
	default:
		f.supervise(ctx, g, path)
	}
}

func (f *fleet) writeBootstrap(g *policy.Gateway) (string, error) {
	b := envoy.Bootstrap(g.Name, "standalone", envoy.Servers{XDS: f.xds, Service: f.service})
	content, err := protojson.MarshalOptions{Multiline: true}.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	path := filepath.Join(f.DataDir, fmt.Sprintf("envoy-%s_%s.json", g.Name.Namespace, g.Name.Name))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	return path, nil
}

// supervise keeps one Envoy alive until ctx ends.
func (f *fleet) supervise(ctx context.Context, g *policy.Gateway, bootstrap string) {
	pause := restartFirst
	for first := true; ; first = false {
		began := time.Now()
		err := f.checkPorts(ctx, g)
		if err == nil {
			err = f.runEnvoy(ctx, g, bootstrap, first)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steady {
			pause = restartFirst
		}
		if err == nil {
			err = errors.New("it stopped by itself")
		}
		f.Log.ErrorContext(ctx, "no Envoy runs for a gateway, trying again", "gateway", g.Name.String(), "error", err, "pause", pause.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, restartMost)
	}
}

// checkPorts says that a port of the gateway is taken. No Envoy of ours runs while it looks.
func (f *fleet) checkPorts(ctx context.Context, g *policy.Gateway) error {
	for _, d := range f.doors(g) {
		if err := checkFree(ctx, d.address); err != nil {
			return err
		}
	}
	return nil
}

// doors has the addresses where the gateway's listeners bind, each once, with the host name of the first listener there.
func (f *fleet) doors(g *policy.Gateway) []door {
	var all []door
	for _, l := range g.Listeners {
		d := door{scheme: "http", hostname: l.Hostname}
		if len(l.Certificates) > 0 {
			d.scheme = "https"
		}
		if f.Port != 0 {
			l.Port = f.Port
		}
		d.address = net.JoinHostPort(f.Address, strconv.FormatUint(uint64(l.Port), 10))
		if !slices.ContainsFunc(all, func(other door) bool { return other.address == d.address }) {
			all = append(all, d)
		}
	}
	return all
}
