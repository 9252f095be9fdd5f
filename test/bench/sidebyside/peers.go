package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// offered is how many requests at once are sent to find out how many a limit lets through. It is more than the limit.
const offered = 5000

// mostAbove is the share of requests above their limit that may pass: nothing was measured below it.
const mostAbove = 0.01

type peers struct {
	session

	limits                   []int
	only                     []string
	connections, outstanding int
	rate                     float64

	running []*servers.Server
	missing map[string]bool // variants that were said to be missing
	verdict []judgement
}

func newPeers() *cobra.Command {
	p := peers{missing: map[string]bool{}}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Measure the service beside grpc-go alone and beside envoyproxy/ratelimit",
		Long: `Measure "tierkeeper ratelimit" beside a service that says OK at once and beside envoyproxy/ratelimit, with several numbers of limits
for each request: below and above the limit, with many requests outstanding, one at a time and at a steady rate. And count how many
of 5,000 requests at once each lets through where a limit allows 1,000.

` + list(),
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return errors.Join(p.check(), p.checkChoice()) },
		RunE:    work(func(cmd *cobra.Command) error { return p.run(cmd, p.measureAll) }),
	}
	flags := cmd.Flags()
	p.addFlags(flags)
	flags.StringVar(&p.programs.Peer, "ratelimit", "", "envoyproxy/ratelimit (default: without it)")
	flags.IntSliceVar(&p.limits, "limits", []int{1, judgedLimits, servers.MostLimits},
		fmt.Sprintf("numbers of limits, each from 1 to %d; budgets are judged at %d", servers.MostLimits, judgedLimits))
	flags.StringSliceVar(&p.only, "only", nil, "names of what is measured (default: all)")
	flags.IntVar(&p.connections, "connections", 4, "connections")
	flags.IntVar(&p.outstanding, "outstanding", 64, "requests outstanding on all connections")
	flags.Float64Var(&p.rate, "rate", 2000, "requests a second at the steady rate")
	return cmd
}

// list says what is measured.
func list() string {
	var out strings.Builder
	for _, v := range servers.Variants {
		fmt.Fprintf(&out, "  %-14s  %s\n", v.Name, v.About)
	}
	return out.String()
}

func (p *peers) checkChoice() error {
	for _, n := range p.limits {
		if n < 1 || n > servers.MostLimits {
			return fmt.Errorf("--limits %d is not between 1 and %d", n, servers.MostLimits)
		}
	}
	for _, name := range p.only {
		if !slices.ContainsFunc(servers.Variants, func(v servers.Variant) bool { return v.Name == name }) {
			return fmt.Errorf("--only %s is not one of what is measured; they are listed with --help", name)
		}
	}
	if p.connections < 1 || p.outstanding < p.connections || p.rate <= 0 {
		return errors.New("--connections and --rate must be above 0, and --outstanding at least --connections")
	}
	return nil
}

func (p *peers) measureAll(ctx context.Context) error {
	p.introduce(ctx)
	for _, n := range p.limits {
		if err := p.runWith(ctx, n); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.out, "\n== Budgets, with %d limits, below them, %d requests outstanding\n", judgedLimits, p.outstanding)
	p.disclaim()
	if p.verdict == nil {
		fmt.Fprintln(p.out, "not judged: too few rounds count, or it was not measured")
	} else {
		writeVerdict(p.out, p.verdict)
	}
	return nil
}

// introduce says where figures are from.
func (p *peers) introduce(ctx context.Context) {
	fmt.Fprintf(p.out, "%s, grpc-go %s\n", meter.Describe(), grpc.Version)
	fmt.Fprintf(p.out, "tierkeeper %s\n", built(p.programs.Tierkeeper, "google.golang.org/grpc"))
	if p.programs.Peer != "" {
		fmt.Fprintf(p.out, "envoyproxy/ratelimit %s\n", built(p.programs.Peer, "google.golang.org/grpc", "github.com/mediocregopher/radix/v4"))
	}
	if p.programs.Redis != "" {
		fmt.Fprintln(p.out, versionOf(ctx, p.programs.Redis))
	}
	fmt.Fprintf(p.out, "%d rounds of %v s for each figure, after %v s; a figure is the median [least–most] of all rounds, a ratio that of ratios in the same round\n",
		p.rounds, p.seconds, p.warm)
	p.disclaim()
}

// runWith measures everything with a number of limits.
func (p *peers) runWith(ctx context.Context, limits int) error {
	defer func() {
		for _, s := range p.running {
			s.Stop()
		}
		p.running = nil
	}()
	if err := p.start(ctx, limits); err != nil {
		return err
	}
	for _, c := range p.cases(limits) {
		name := fmt.Sprintf("%d limits, %s them, %d subjects, %s", limits, c.kind.Name, p.setup(limits).Subjects(c.kind), c.how)
		if err := p.runCase(ctx, name, c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return p.countAdmitted(ctx, limits)
}

// start runs everything that is available, and lets it find each subject once.
func (p *peers) start(ctx context.Context, limits int) error {
	for _, v := range servers.Variants {
		if len(p.only) > 0 && !slices.Contains(p.only, v.Name) {
			continue
		}
		s, err := servers.Start(ctx, p.programs, v, p.setup(limits), p.dir)
		if missing, ok := errors.AsType[*servers.UnavailableError](err); ok {
			if !p.missing[v.Name] {
				fmt.Fprintf(p.out, "%s: not available in this build (%s)\n", v.Name, missing.Reason)
			}
			p.missing[v.Name] = true
			continue
		}
		if err != nil {
			return err
		}
		p.running = append(p.running, s)
		if err := p.sendAll(ctx, s, servers.Below, 1, func(r *load.Result) bool { return r.Admitted == r.Calls() }); err != nil {
			return err
		}
	}
	return nil
}

// sendAll sends requests of each subject of a kind, a number of times, and checks what became of them.
func (p *peers) sendAll(ctx context.Context, s *servers.Server, k servers.Kind, times int, good func(*load.Result) bool) error {
	all, err := s.Calls(k)
	if err != nil {
		return err
	}
	var sent atomic.Int64
	plan := p.plan(s, func(*rand.Rand) load.Call { return all[int(sent.Add(1)-1)%len(all)] })
	plan.Total = int64(len(all) * times)
	r, err := load.Run(ctx, plan)
	if err == nil && !good(r) {
		err = fmt.Errorf("of %d requests, %d were admitted, %d refused, and %d failed: %s", r.Calls(), r.Admitted, r.Refused, r.Failed, r.Failure)
	}
	if err != nil {
		return fmt.Errorf("sending to %s of %d subjects %s their limit: %w", s.Name, len(all), k.Name, err)
	}
	return nil
}

func (p *peers) setup(limits int) servers.Setup { return servers.Setup{Keys: p.keys, Limits: limits} }

func (p *peers) plan(s *servers.Server, next func(*rand.Rand) load.Call) *load.Plan {
	return &load.Plan{Address: s.Address, Connections: p.connections, Outstanding: p.outstanding, Next: next, Read: s.Read}
}

func (p *peers) cases(limits int) []benchCase {
	many := benchCase{how: fmt.Sprintf("%d outstanding on %d connections", p.outstanding, p.connections), connections: p.connections, outstanding: p.outstanding}
	below, above := many, many
	below.kind, below.judged, above.kind = servers.Below, limits == judgedLimits, servers.Above
	if limits != judgedLimits {
		return []benchCase{below, above}
	}
	return []benchCase{
		below, above,
		{how: oneAtATime, kind: servers.Below, connections: 1, outstanding: 1},
		{how: fmt.Sprintf("%v a second", p.rate), kind: servers.Below, connections: p.connections, rate: p.rate},
	}
}

func (p *peers) runCase(ctx context.Context, name string, c benchCase) error {
	var all []contestant
	for _, s := range p.running {
		if c.kind == servers.Above && s.Counts {
			if err := p.sendAll(ctx, s, c.kind, c.kind.PerDay+1, func(r *load.Result) bool { return r.Failed == 0 }); err != nil {
				return err
			}
		}
		one, err := p.contestant(s, c)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	rounds, err := p.alternate(ctx, name, all)
	if err != nil {
		return err
	}
	p.tell(name, c.judged, all, rounds)
	return nil
}

func (p *peers) contestant(s *servers.Server, c benchCase) (contestant, error) {
	all, err := s.Calls(c.kind)
	if err != nil {
		return contestant{}, err
	}
	plan := p.plan(s, func(draw *rand.Rand) load.Call { return all[draw.IntN(len(all))] })
	c.shape(plan)
	return contestant{
		name: s.Name,
		plan: plan,
		read: func(ctx context.Context) (reading, error) {
			r, err := s.Meters(ctx)
			return reading{cpu: r.CPU, storeCPU: r.RedisCPU, memory: r.Memory}, err
		},
		allocations: s.Allocations,
		check: func(got *sample) error {
			share := float64(got.Admitted) / float64(got.Calls())
			above := c.kind == servers.Above && s.Counts
			if above && share > mostAbove || !above && got.Refused > 0 {
				return fmt.Errorf("%d of %d requests were refused where all are %s their limit; has a new day begun?", got.Refused, got.Calls(), c.kind.Name)
			}
			return nil
		},
	}, nil
}

var absolute = []column{
	{title: "requests/s", of: rate},
	{title: "p50 µs", of: latency(0.5)},
	{title: "p99 µs", of: latency(0.99)},
	{title: "p99.9 µs", of: latency(0.999)},
	{title: "CPU µs/request", of: cpu},
	{title: "of Redis", of: storeCPU},
	{title: "of the generator", of: generator},
	{title: "allocations", of: allocations},
	{title: "MiB", of: mebibytes},
}

var relative = []column{
	{title: "CPU × floor", of: cpu, beside: servers.Floor},
	{title: "× floor-reserve", of: cpu, beside: servers.FloorReserve},
	{title: "CPU × er", of: cpu, beside: servers.Peer},
	{title: "requests/s × er", of: rate, beside: servers.Peer},
	{title: "p50 × er", of: latency(0.5), beside: servers.Peer},
	{title: "p99 × er", of: latency(0.99), beside: servers.Peer},
	{title: "CPU of Redis × er", of: storeCPU, beside: servers.Peer},
}

// tell prints what a case has shown, unless it has shown nothing.
func (p *peers) tell(name string, judged bool, all []contestant, rounds []round) {
	if !p.enough(name, rounds) {
		return
	}
	var names []string
	for _, one := range all {
		names = append(names, one.name)
	}
	table(p.out, rounds, names, absolute)
	table(p.out, rounds, names, relative)
	if judged {
		p.verdict = judge(rounds)
	}
}

// countAdmitted says how many requests a limit lets through, of more than it allows at once.
func (p *peers) countAdmitted(ctx context.Context, limits int) error {
	fmt.Fprintf(p.out, "\n== %d limits, %d requests at once where one allows %d: how many were admitted, in %d tries\n", limits, offered, servers.Exact.PerDay, p.rounds)
	for _, s := range p.running {
		if !s.Counts {
			continue
		}
		all, err := s.Calls(servers.Exact)
		if err != nil {
			return err
		}
		var counts []string
		for try := range p.rounds {
			plan := p.plan(s, func(*rand.Rand) load.Call { return all[try] })
			plan.Total = offered
			r, err := load.Run(ctx, plan)
			if err == nil && r.Admitted+r.Refused != offered {
				err = fmt.Errorf("%d of %d requests failed: %s", offered-r.Admitted-r.Refused, offered, r.Failure)
			}
			if err != nil {
				return fmt.Errorf("counting what %s admits: %w", s.Name, err)
			}
			counts = append(counts, fmt.Sprint(r.Admitted))
		}
		fmt.Fprintf(p.out, "%-14s  %s\n", s.Name, strings.Join(counts, ", "))
	}
	return nil
}
