package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// What is measured must be what is meant: the floor only says OK, and the service finds seven limits of each key.
func TestTheServersDoWhatIsMeasured(t *testing.T) {
	t.Parallel()
	floor := newLoad(t, start(t, kindFloor)).ask(t, 0, 1)
	if n := len(floor.GetResponseHeadersToAdd()); n != 0 {
		t.Errorf("the floor answers with %d headers, want none", n)
	}
	service := newLoad(t, start(t, kindService))
	for _, key := range []int{0, 1, keys - 1, 1} {
		answer := service.ask(t, 0, key)
		if n := len(answer.GetResponseHeadersToAdd()); n != 12 {
			t.Errorf("the service answers with %d headers, want 12: %v", n, answer)
		}
		if lease := answer.GetDynamicMetadata().GetFields()[descriptor.KeyLease].GetStringValue(); len(lease) < 7*16 {
			t.Errorf("the lease %q is too short for seven counters", lease)
		}
	}
}

func TestSamplesAreWhatTwoMomentsDiffer(t *testing.T) {
	t.Parallel()
	before := moment{at: time.Unix(0, 0), calls: 100, cpu: time.Second, own: 3 * time.Second, machine: 10 * time.Second, allocations: 50}
	after := moment{at: time.Unix(2, 0), calls: 1100, cpu: 2 * time.Second, own: 5 * time.Second, machine: 13 * time.Second, allocations: 60_050}
	got := after.since(before)
	if got.perCall() != 1000 || got.rate() != 500 || got.others != 0.5 || got.allocations != 60 {
		t.Errorf("got %+v, %v µs, %v calls/s, want 1000 µs, 500 calls/s, others of half a core and 60 allocations", got, got.perCall(), got.rate())
	}
}

func TestNoVerdictWhileOthersWork(t *testing.T) {
	t.Parallel()
	with := func(service, others float64) round {
		return round{
			floor:   sample{calls: 1000, cpu: 20 * time.Millisecond, elapsed: time.Second},
			service: sample{calls: 1000, cpu: time.Duration(service * float64(20*time.Millisecond)), elapsed: time.Second, others: others},
		}
	}
	for want, rounds := range map[string][]round{
		"no verdict: other work took 0.35 core or more in 3 of 7 rounds": {
			with(1, 0), with(1, 0.35), with(1, 0), with(1, 0.4), with(1, 1.2), with(1, 0), with(1, 0.1),
		},
		"0.80 × the CPU of the floor (0.50 to 3.00, 5 rounds): within the target": {
			with(0.5, 0), with(0.7, 0), with(0.8, 0), with(9, 0.5), with(0.9, 0), with(3, 0),
		},
		"1.00 × the CPU of the floor (1.00 to 1.00, 5 rounds): within the budget, beyond the target": {
			with(1, 0), with(1, 0), with(1, 0), with(1, 0), with(1, 0),
		},
		"2.00 × the CPU of the floor (2.00 to 2.00, 5 rounds): beyond the budget": {
			with(2, 0), with(2, 0), with(2, 0), with(2, 0), with(2, 0.34),
		},
	} {
		if got := table(rounds); !strings.Contains(got, want) {
			t.Errorf("the verdict is not %q:\n%s", want, got)
		}
	}
}
