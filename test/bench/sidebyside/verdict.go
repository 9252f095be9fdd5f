package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// judgedLimits is the number of limits at which budgets hold.
const judgedLimits = 4

// A budget is what a figure, or its ratio to that of another in the same round, may be.
type budget struct {
	what         string
	of           string
	figure       quantity
	beside       string
	target, must float64
	atLeast      bool // what is above is good
}

// budgets hold below the limit, with many requests outstanding.
var budgets = []budget{
	{what: "memory: CPU beside floor", of: servers.Memory, figure: cpu, beside: servers.Floor, target: 0.85, must: 1.1},
	{what: "memory: CPU beside er", of: servers.Memory, figure: cpu, beside: servers.Peer, target: 0.20, must: 0.25},
	{what: "memory: requests/s beside er", of: servers.Memory, figure: rate, beside: servers.Peer, target: 5, must: 4, atLeast: true},
	{what: "memory: allocations", of: servers.Memory, figure: allocations, target: 65, must: 80},
	{what: "Redis: CPU beside floor", of: servers.Redis, figure: cpu, beside: servers.Floor, target: 1.3, must: 1.5},
	{what: "Redis: CPU beside er", of: servers.Redis, figure: cpu, beside: servers.Peer, target: 0.30, must: 0.35},
	{what: "Redis: requests/s beside er", of: servers.Redis, figure: rate, beside: servers.Peer, target: 2.2, must: 1.8, atLeast: true},
	{what: "Redis: p99 beside er", of: servers.Redis, figure: latency(0.99), beside: servers.Peer, target: 0.55, must: 0.75},
	{what: "Redis: CPU of Redis beside er", of: servers.Redis, figure: storeCPU, beside: servers.Peer, target: 0.9, must: 1.0},
	{what: "Redis: allocations", of: servers.Redis, figure: allocations, target: 72, must: 90},
}

// A judgement is what was seen of a budget.
type judgement struct {
	budget

	seen spread
}

func judge(rounds []round) []judgement {
	var all []judgement
	for _, b := range budgets {
		all = append(all, judgement{b, ratio(rounds, b.of, b.figure, b.beside)})
	}
	return all
}

func (j judgement) String() string {
	switch {
	case j.seen.n == 0:
		return "no figure"
	case j.within(j.target):
		return "target met"
	case j.within(j.must):
		return "must met, target not"
	default:
		return "NOT met"
	}
}

func (j judgement) within(bound float64) bool {
	if j.atLeast {
		return j.seen.median >= bound
	}
	return j.seen.median <= bound
}

func writeVerdict(out io.Writer, all []judgement) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "budget\tseen\tn\ttarget\tmust\t")
	for _, j := range all {
		sign := "≤"
		if j.atLeast {
			sign = "≥"
		}
		fmt.Fprintf(w, "%s\t%v\t%d\t%s %v\t%s %v\t%v\n", j.what, j.seen, j.seen.n, sign, j.target, sign, j.must, j)
	}
	_ = w.Flush() // as with all that is printed
}
