package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A round is one sample of each contestant, one right after the other.
type round struct {
	samples     map[string]*sample
	calibration time.Duration
}

// A quantity is what a sample tells; 0 where it is not known.
type quantity func(*sample) float64

// ratio is that of two contestants in the same round. Beside nobody, it is the quantity itself. It is empty where something of it
// is not known.
func ratio(rounds []round, name string, q quantity, beside string) spread {
	var values []float64
	for _, r := range rounds {
		of, by := r.samples[name], r.samples[beside]
		if of == nil || q(of) == 0 || beside != "" && (by == nil || q(by) == 0) {
			return spread{}
		}
		value := q(of)
		if beside != "" {
			value /= q(by)
		}
		values = append(values, value)
	}
	return spreadOf(values)
}

// A spread is what several rounds say of one figure.
type spread struct {
	median, least, most float64
	n                   int
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{median: (sorted[(n-1)/2] + sorted[n/2]) / 2, least: sorted[0], most: sorted[n-1], n: n}
}

// String tells the median and how far the rounds were from it, with as many digits as the figure bears.
func (s spread) String() string {
	if s.n == 0 {
		return "–"
	}
	if s.n == 1 {
		return short(s.median)
	}
	return fmt.Sprintf("%s [%s–%s]", short(s.median), short(s.least), short(s.most))
}

func short(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100:
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
