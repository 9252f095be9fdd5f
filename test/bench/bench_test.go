// Package bench decides how to tell what the rate-limit service costs beside the cheapest service that one can write: by
// CPU for each call, of both in turn, in one run on one machine.
package bench

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

// The shape of a run. Five quiet rounds make a verdict; those in which the machine was busy are repeated, up to the most.
const (
	wanted     = 5
	most       = 7
	settleTime = 100 * time.Millisecond // before each measurement, so that the load runs evenly
	measured   = 900 * time.Millisecond
)

// busy is the work of others, in cores, from which on a round says nothing.
const busy = 0.35

// What the service may cost, in units of the floor.
const (
	targetRatio = 0.85
	mustRatio   = 1.1
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(kindVariable); kind != "" {
		os.Exit(serve(kind, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// A round is one measurement of each server, one right after the other.
type round struct{ floor, service sample }

func (r round) ratio() float64 { return r.service.perCall() / r.floor.perCall() }

func (r round) others() float64 { return max(r.floor.others, r.service.others) }

func (r round) quiet() bool { return r.others() < busy }

// BenchmarkServiceCPU measures the CPU that the service takes for a reserve with six rates and a concurrency limit of one of
// 10,000 keys, and the CPU that grpc-go takes for the same request when nothing is decided.
func BenchmarkServiceCPU(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("this benchmark reads the CPU time of its servers from /proc, which only Linux has")
	}
	floor, service := start(b, kindFloor), start(b, kindService)
	toFloor, toService := newLoad(b, floor), newLoad(b, service)
	toFloor.touchAllKeys(b)
	toService.touchAllKeys(b)
	var rounds []round
	for b.Loop() { // One run is longer than -benchtime asks for, unless it asks for several.
		rounds = measure(b, toFloor, toService)
	}
	b.Log(table(rounds))
	report(b, rounds)
}

func measure(b *testing.B, floor, service *load) []round {
	b.Helper()
	var rounds []round
	quiet := 0
	for i := 0; i < most && quiet < wanted; i++ {
		var r round
		if i%2 == 0 {
			r.floor, r.service = floor.run(b), service.run(b)
		} else {
			r.service, r.floor = service.run(b), floor.run(b)
		}
		rounds = append(rounds, r)
		if r.quiet() {
			quiet++
		}
	}
	return rounds
}

func report(b *testing.B, rounds []round) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // The time of a run means nothing.
	rounds = slices.DeleteFunc(slices.Clone(rounds), func(r round) bool { return !r.quiet() })
	if len(rounds) < wanted {
		return // What benchstat compares must be worth it.
	}
	b.ReportMetric(median(rounds, round.ratio), "x-floor")
	b.ReportMetric(median(rounds, func(r round) float64 { return r.service.perCall() }), "cpu-µs/call")
	b.ReportMetric(median(rounds, func(r round) float64 { return r.floor.perCall() }), "floor-cpu-µs/call")
	b.ReportMetric(median(rounds, func(r round) float64 { return r.service.allocations }), "server-allocs/call")
}

// table is the run for readers. It has no more than the nine lines that a benchmark may log.
func table(rounds []round) string {
	var out strings.Builder
	out.WriteString(verdict(rounds))
	fmt.Fprintf(&out, "\n%s, grpc-go %s; %d calls outstanding on %d connections, %d keys, %v for each figure\n",
		meter.Describe(), grpc.Version, outstanding, connections, keys, measured)
	row := func(name string, f func(int, round) string) {
		fmt.Fprintf(&out, "%-28s", name)
		for i, r := range rounds {
			fmt.Fprintf(&out, "%9s", f(i, r))
		}
		out.WriteByte('\n')
	}
	number := func(format string, f func(round) float64) func(int, round) string {
		return func(_ int, r round) string { return fmt.Sprintf(format, f(r)) }
	}
	row("round (* does not count)", func(i int, r round) string {
		if r.quiet() {
			return fmt.Sprint(i + 1)
		}
		return fmt.Sprintf("%d*", i+1)
	})
	row("floor, µs of CPU per call", number("%.1f", func(r round) float64 { return r.floor.perCall() }))
	row("ours, µs of CPU per call", number("%.1f", func(r round) float64 { return r.service.perCall() }))
	row("ratio", number("%.2f", round.ratio))
	row("floor / ours, 1000 calls/s", func(_ int, r round) string {
		return fmt.Sprintf("%.0f/%.0f", r.floor.rate()/1000, r.service.rate()/1000)
	})
	row("floor / ours, allocations", func(_ int, r round) string {
		return fmt.Sprintf("%.0f/%.0f", r.floor.allocations, r.service.allocations)
	})
	row("other work, cores", number("%.2f", round.others))
	return strings.TrimSuffix(out.String(), "\n")
}

func verdict(rounds []round) string {
	quiet := slices.DeleteFunc(slices.Clone(rounds), func(r round) bool { return !r.quiet() })
	if len(quiet) < wanted {
		return fmt.Sprintf("no verdict: other work took %.2f core or more in %d of %d rounds, and %d quiet ones are needed", busy,
			len(rounds)-len(quiet), len(rounds), wanted)
	}
	ratios := each(quiet, round.ratio)
	ratio := median(quiet, round.ratio)
	word := "within the target"
	switch {
	case ratio > mustRatio:
		word = "beyond the budget"
	case ratio > targetRatio:
		word = "within the budget, beyond the target"
	}
	return fmt.Sprintf("the service takes %.2f × the CPU of the floor (%.2f to %.2f, %d rounds): %s (target %.2f, budget %.2f)",
		ratio, slices.Min(ratios), slices.Max(ratios), len(quiet), word, targetRatio, mustRatio)
}

func each(rounds []round, f func(round) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, r := range rounds {
		out[i] = f(r)
	}
	return out
}

func median(rounds []round, f func(round) float64) float64 {
	values := slices.Sorted(slices.Values(each(rounds, f)))
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}
