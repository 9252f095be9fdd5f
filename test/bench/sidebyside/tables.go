package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// A column is a quantity of a table, or its ratio to that of another contestant.
type column struct {
	title  string
	of     quantity
	beside string
}

// The quantities. Times are in µs.
func rate(s *sample) float64        { return s.rate() }
func cpu(s *sample) float64         { return s.each(s.cpu) }
func storeCPU(s *sample) float64    { return s.each(s.storeCPU) }
func allocations(s *sample) float64 { return float64(s.allocations) / float64(s.Calls()) }
func mebibytes(s *sample) float64   { return float64(s.memory) / (1 << 20) }
func generator(s *sample) float64   { return s.each(s.generator) }

// latency is what a share of the calls did not exceed.
func latency(share float64) quantity {
	return func(s *sample) float64 { return float64(s.Latency.At(share).Nanoseconds()) / 1e3 }
}

// table writes a line for each contestant.
func table(out io.Writer, rounds []round, names []string, columns []column) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range columns {
		fmt.Fprintf(w, "\t%s", c.title)
	}
	fmt.Fprintln(w)
	for _, name := range names {
		fmt.Fprint(w, name)
		for _, c := range columns {
			fmt.Fprintf(w, "\t%v", ratio(rounds, name, c.of, c.beside))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // as with all that is printed
}

// enough writes how many rounds of a case count, and says whether they are enough to show figures.
func (s *session) enough(name string, rounds []round) bool {
	fmt.Fprintf(s.out, "\n== %s\n", name)
	if len(rounds) < s.rounds {
		fmt.Fprintf(s.out, "no figures: other work took %.2f of a core or more in all but %d of %d rounds\n", busy, len(rounds), 2*s.rounds)
		s.tooFew = append(s.tooFew, name)
		return false
	}
	var fixed []float64
	for _, r := range rounds {
		fixed = append(fixed, float64(r.calibration)/float64(time.Millisecond))
	}
	fmt.Fprintf(s.out, "%d rounds, fixed work %v ms, other work at most %.2f cores\n", len(rounds), spreadOf(fixed), worstOthers(rounds))
	return true
}

// worstOthers is the most that other work took beside a sample, in cores.
func worstOthers(rounds []round) float64 {
	worst := 0.0
	for _, r := range rounds {
		for _, s := range r.samples {
			worst = max(worst, s.others)
		}
	}
	return worst
}
