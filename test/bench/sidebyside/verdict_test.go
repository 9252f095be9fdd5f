package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// taking is a sample of a second in which so many calls took so much CPU each.
func taking(calls int64, each time.Duration) *sample {
	return &sample{Result: load.Result{Admitted: calls}, elapsed: time.Second, cpu: each * time.Duration(calls)}
}

func roundOf(memory, floor, er *sample) round {
	return round{samples: map[string]*sample{servers.Memory: memory, servers.Floor: floor, servers.Peer: er}}
}

// The ratio is the median of those in each round, however fast the machine was in each.
func TestBudgetsAreJudgedByRatiosOfTheSameRound(t *testing.T) {
	t.Parallel()
	const us = time.Microsecond
	verdict := judge([]round{
		roundOf(taking(45_000, 10*us), taking(1, 20*us), taking(10_000, 100*us)),
		roundOf(taking(90_000, 30*us), taking(1, 30*us), taking(20_000, 100*us)),
		roundOf(taking(10_000, 100*us), taking(1, 50*us), taking(1_000, 400*us)),
	})
	got := map[string]string{}
	for _, j := range verdict {
		if j.of == servers.Memory {
			got[j.what] = j.seen.String() + ": " + j.String()
		}
	}
	want := map[string]string{
		"memory: CPU beside floor":     "1.00 [0.50–2.00]: must met, target not",
		"memory: CPU beside er":        "0.25 [0.10–0.30]: must met, target not",
		"memory: requests/s beside er": "4.50 [4.50–10.0]: must met, target not",
		"memory: allocations":          "–: no figure",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the verdict (-want +got):\n%s", diff)
	}
}

func TestABudgetIsMetOrNot(t *testing.T) {
	t.Parallel()
	atMost, atLeast := budget{target: 0.5, must: 0.75}, budget{target: 5, must: 4, atLeast: true}
	tests := map[string]struct {
		judgement
		want string
	}{
		"at the target":        {judgement{atMost, spreadOf([]float64{0.5})}, "target met"},
		"between":              {judgement{atMost, spreadOf([]float64{0.75})}, "must met, target not"},
		"above":                {judgement{atMost, spreadOf([]float64{0.76})}, "NOT met"},
		"as fast as wanted":    {judgement{atLeast, spreadOf([]float64{5})}, "target met"},
		"as fast as it must":   {judgement{atLeast, spreadOf([]float64{4, 4.9})}, "must met, target not"},
		"too slow":             {judgement{atLeast, spreadOf([]float64{3.9})}, "NOT met"},
		"never measured":       {judgement{budget: atMost}, "no figure"},
		"one round was enough": {judgement{atMost, spreadOf([]float64{9, 0.1, 0.2})}, "target met"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.String(); got != tc.want {
				t.Errorf("it is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestATableSaysWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	table(&out, []round{roundOf(taking(10, time.Microsecond), taking(10, 2*time.Microsecond), nil)}, []string{servers.Memory, servers.Peer}, []column{
		{title: "CPU", of: cpu}, {title: "× floor", of: cpu, beside: servers.Floor}, {title: "× er", of: cpu, beside: servers.Peer}, {title: "of Redis", of: storeCPU},
	})
	want := "        CPU   × floor  × er  of Redis\nmemory  1.00  0.50     –     –\ner      –     –        –     –\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
}

func TestASampleIsWhatTwoMomentsDiffer(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	before := moment{at: start, own: time.Second, machine: 10 * time.Second, reading: reading{cpu: 2 * time.Second, storeCPU: time.Second, besides: time.Second}}
	after := moment{
		at: start.Add(2 * time.Second), own: 2 * time.Second, machine: 15 * time.Second,
		reading: reading{cpu: 3 * time.Second, storeCPU: 1500 * time.Millisecond, besides: 1500 * time.Millisecond, memory: 4096},
	}
	var s sample
	s.between(before, after)
	if s.cpu != time.Second || s.storeCPU != 500*time.Millisecond || s.generator != time.Second || s.memory != 4096 || s.others != 1 {
		t.Errorf("got %+v, want 1s, 500ms of the store, 1s of the generator, 4096 bytes and one core of others", s)
	}
}
