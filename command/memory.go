package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
)

// GCPercent is by how many percent the heap of a service grows at most, by default, over what is in use before garbage is collected. Go's
// own 100 costs a service that answers as fast as it can a seventh more CPU.
const GCPercent = 400

// Of a large heap four times as much would be a lot of memory, and win little: what counts is how often all that is in use is looked
// through. So garbage is collected as soon as there is as much of it as is made in half a second, within bounds: a busy service gets the
// memory that saves it CPU, one that only learns of edits does without. It is never before there is as much as what is in use.
const (
	leastGarbage = 64 << 20  // bytes
	mostGarbage  = 256 << 20 // bytes
	leastPercent = 100
	lookEvery    = 250 * time.Millisecond // at what is made
)

// Of what a cgroup may take, Go is to stay within this part, in percent: the rest is what Go does not know of, such as pages of
// files that are mapped, and an Envoy if there is one beside it.
const (
	partAlone       = 90
	partBesideEnvoy = 45
)

// leastMemory is less than any service needs: whoever says less forgot the unit.
const leastMemory = 16 << 20

// memoryFlags say how much memory a service may take in order to take less CPU.
type memoryFlags struct {
	limit   resource.QuantityValue
	percent int
}

func (f *memoryFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.limit, "memory-limit", fmt.Sprintf("memory that Go is to stay within, such as 512Mi: near it, garbage is collected more often (default: %d%% of what the process's cgroup may take, %d%% with an Envoy beside it; none if that has no limit). GOMEMLIMIT wins",
		partAlone, partBesideEnvoy))
	flags.IntVar(&f.percent, "gc-percent", GCPercent, "by how many percent the heap grows at most over what is in use before garbage is collected, as long as the memory limit is far; above 64 MiB of garbage, or 256 MiB where as much is made in half a second, 100 is enough. Less takes less memory and more CPU. GOGC wins")
}

func (f *memoryFlags) check() error {
	if !f.limit.IsZero() && f.limit.CmpInt64(leastMemory) < 0 {
		return fmt.Errorf("--memory-limit %s is less than 16Mi, which no service can do with: write a unit, as in 512Mi", f.limit.String())
	}
	if f.percent < 1 {
		return fmt.Errorf("--gc-percent %d is below 1: give more, such as %d", f.percent, GCPercent)
	}
	return nil
}

// apply tells Go. What stands in the environment goes before flags.
func (f *memoryFlags) apply(ctx context.Context, part int64, log *slog.Logger) {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(f.percent)
		go f.follow(ctx)
	}
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return
	}
	limit, err := f.bytes(part, memlimit.FromCgroup)
	if err != nil {
		log.Warn("could not find out how much memory the process may take; give it with --memory-limit", "error", err)
	}
	debug.SetMemoryLimit(limit)
}

// CollectGarbage has garbage collected as a service has by default, until ctx ends, whatever stands in the environment.
func CollectGarbage(ctx context.Context) {
	f := memoryFlags{percent: GCPercent}
	debug.SetGCPercent(f.percent)
	f.follow(ctx)
}

// follow has garbage collected by what is made and what is in use, until ctx ends.
func (f *memoryFlags) follow(ctx context.Context) {
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	heap := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	var p pace
	for now := f.percent; ; {
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
		}
		metrics.Read(heap)
		if next := f.percentOf(heap[1].Value.Uint64(), p.garbage(heap[0].Value.Uint64())); next != now {
			now = next
			debug.SetGCPercent(now)
		}
	}
}

// percentOf lets so much garbage be, beside what is in use.
func (f *memoryFlags) percentOf(inUse, garbage uint64) int {
	enough := 100 * garbage / max(inUse, 1)
	return min(f.percent, max(leastPercent, int(enough))) //nolint:gosec // It is at most 100 times mostGarbage.
}

// A pace is how fast bytes are made, or were a moment ago: it rises at once and falls by half in a second or so.
type pace struct{ made, halfSecond uint64 }

// garbage is how much may be, where so many bytes have been made in all.
func (p *pace) garbage(made uint64) uint64 {
	const looks = uint64(time.Second / 2 / lookEvery)
	p.halfSecond = max(looks*(made-p.made), p.halfSecond-p.halfSecond/8)
	p.made = made
	return min(max(p.halfSecond, leastGarbage), mostGarbage)
}

// bytes is the limit; math.MaxInt64 is none.
func (f *memoryFlags) bytes(part int64, ofCgroup func() (uint64, error)) (int64, error) {
	if !f.limit.IsZero() {
		return f.limit.Value(), nil
	}
	limit, err := ofCgroup()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return math.MaxInt64, nil
	case err != nil:
		return math.MaxInt64, err
	}
	return int64(min(limit, math.MaxInt64/100)) * part / 100, nil
}
