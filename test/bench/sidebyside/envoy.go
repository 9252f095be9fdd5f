package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/test/bench/calls"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// mostAdded is how much latency the service may add, in units of what a service adds that answers at once.
const mostAdded = 2.0

// nobody is the contestant whose Envoy asks no service.
const nobody = "nobody"

// asked are the variants whose service an Envoy asks.
var asked = []string{servers.Floor, servers.Memory, servers.Redis}

type envoys struct {
	session

	outstanding int
	rate        float64

	stops       []func()
	upstream    *servers.Upstream
	contestants []contestant
}

func newEnvoy() *cobra.Command {
	var e envoys
	cmd := &cobra.Command{
		Use:   "envoy",
		Short: "Measure what the service adds to a request through Envoy",
		Long: `Measure what the service adds to a request through Envoy: beside a service that answers at once, and beside an Envoy that asks
nobody. All Envoys have the same configuration, but for whom they ask.

What a service adds to the latency is the difference to the Envoy that asks nobody, in the same round.`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return e.check() },
		RunE:    work(func(cmd *cobra.Command) error { return e.run(cmd, e.measureAll) }),
	}
	flags := cmd.Flags()
	e.addFlags(flags)
	flags.StringVar(&e.programs.Envoy, "envoy", "bin/envoy", "Envoy")
	flags.IntVar(&e.outstanding, "outstanding", 32, "requests outstanding where many are")
	flags.Float64Var(&e.rate, "rate", 300, "requests a second at the steady rate")
	return cmd
}

func (e *envoys) measureAll(ctx context.Context) error {
	defer func() {
		for _, stop := range slices.Backward(e.stops) {
			stop()
		}
	}()
	fmt.Fprintf(e.out, "%s\ntierkeeper %s\n%s\n", meter.Describe(), built(e.programs.Tierkeeper, "google.golang.org/grpc"), versionOf(ctx, e.programs.Envoy))
	e.disclaim()
	if err := e.start(ctx); err != nil {
		return err
	}
	for _, c := range e.cases() {
		if err := e.runCase(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.how, err)
		}
	}
	return nil
}

func (e *envoys) start(ctx context.Context) (err error) {
	if e.upstream, err = servers.StartUpstream(ctx, e.programs, e.dir); err != nil {
		return err
	}
	e.stops = append(e.stops, e.upstream.Stop)
	for _, v := range servers.Variants {
		if !slices.Contains(asked, v.Name) {
			continue
		}
		v.Concurrency = v.Counts // Envoy settles.
		s, err := servers.Start(ctx, e.programs, v, servers.Setup{Keys: e.keys, Limits: judgedLimits}, e.dir)
		if missing, ok := errors.AsType[*servers.UnavailableError](err); ok {
			fmt.Fprintf(e.out, "%s: not available in this build (%s)\n", v.Name, missing.Reason)
			continue
		}
		if err != nil {
			return err
		}
		e.stops = append(e.stops, s.Stop)
		if v.Name == servers.Floor {
			if err := e.startGateway(ctx, nobody, s, false); err != nil {
				return err
			}
		}
		if err := e.startGateway(ctx, v.Name, s, true); err != nil {
			return err
		}
	}
	return nil
}

func (e *envoys) startGateway(ctx context.Context, name string, s *servers.Server, asks bool) error {
	g, err := servers.StartGateway(ctx, e.programs, s, e.upstream, asks, e.dir)
	if err != nil {
		return err
	}
	e.stops = append(e.stops, g.Stop)
	e.contestants = append(e.contestants, contestant{
		name: name,
		plan: &load.Plan{
			Address: g.Address,
			Next: func(draw *rand.Rand) load.Call {
				return calls.Chat(calls.APIKey(servers.Below.Name, draw.IntN(e.keys)))
			},
			Read: calls.ReadHTTP,
		},
		read:        func(ctx context.Context) (reading, error) { return e.read(ctx, s, g) },
		allocations: s.Allocations,
		check: func(got *sample) error {
			if got.Refused > 0 {
				return fmt.Errorf("%d of %d requests were refused, all of which are below their limits", got.Refused, got.Calls())
			}
			return nil
		},
	})
	return nil
}

// read takes Envoy for the store: the table says so.
func (e *envoys) read(ctx context.Context, s *servers.Server, g *servers.Gateway) (reading, error) {
	service, err := s.Meters(ctx)
	if err != nil {
		return reading{}, err
	}
	envoy, besides, err := g.CPU()
	if err != nil {
		return reading{}, err
	}
	upstream, err := e.upstream.CPU()
	return reading{cpu: service.CPU, storeCPU: envoy, besides: service.RedisCPU + besides + upstream, memory: service.Memory}, err
}

// cases are those whose latency is judged, because it is that of requests and not of their wait for each other, and one more.
func (e *envoys) cases() []benchCase {
	const connections = 4
	return []benchCase{
		{how: oneAtATime, connections: 1, outstanding: 1, judged: true},
		{how: fmt.Sprintf("%v a second", e.rate), connections: connections, rate: e.rate, judged: true},
		{how: fmt.Sprintf("%d outstanding on %d connections", e.outstanding, connections), connections: connections, outstanding: e.outstanding},
	}
}

func (e *envoys) runCase(ctx context.Context, c benchCase) error {
	var names []string
	for _, one := range e.contestants {
		c.shape(one.plan)
		names = append(names, one.name)
	}
	name := fmt.Sprintf("Through Envoy, %d limits and a concurrency limit, %s", judgedLimits, c.how)
	rounds, err := e.alternate(ctx, name, e.contestants)
	if err != nil {
		return err
	}
	if !e.enough(name, rounds) {
		return nil
	}
	table(e.out, rounds, names, []column{
		{title: "requests/s", of: rate},
		{title: "p50 µs", of: latency(0.5)},
		{title: "p99 µs", of: latency(0.99)},
		{title: "p99.9 µs", of: latency(0.999)},
		{title: "CPU µs/request of the service", of: cpu},
		{title: "of Envoy", of: storeCPU},
	})
	if c.judged {
		tellAdded(e.out, rounds, names)
	}
	return nil
}

// judgedShare is that of the median. Of the slowest few the difference of two is mostly chance.
const judgedShare = 0.5

// tellAdded says what each service adds to the latency, and how that is beside the one that answers at once.
func tellAdded(out io.Writer, rounds []round, names []string) {
	for _, share := range []float64{judgedShare, 0.99} {
		added := func(r round, name string) float64 {
			return latency(share)(r.samples[name]) - latency(share)(r.samples[nobody])
		}
		for _, name := range names {
			if name == nobody {
				continue
			}
			var own, beside []float64
			for _, r := range rounds {
				own = append(own, added(r, name))
				beside = append(beside, added(r, name)/added(r, servers.Floor))
			}
			fmt.Fprintf(out, "p%v: %s adds %v µs", share*100, name, spreadOf(own))
			if ratio := spreadOf(beside); name != servers.Floor && share == judgedShare {
				fmt.Fprintf(out, ", %v × what floor adds (target ≤ %v: %s)", ratio, mostAdded, met(ratio.median <= mostAdded))
			}
			fmt.Fprintln(out)
		}
	}
}

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "NOT met"
}
