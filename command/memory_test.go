package command_test

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/command"
)

// What Go is told is of the whole process, so this test runs alone.
func TestAServiceTakesTheMemoryThatItIsTold(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	// An address beyond loopback ends each run at once.
	service := []string{"ratelimit", "--manifests", quickstart, "--address", "10.0.0.1:0", "--data-dir"}
	standalone := []string{"standalone", "--manifests", quickstart, "--service", "10.0.0.1:1", "--data-dir"}
	for name, tc := range map[string]struct {
		args           []string
		env            map[string]string
		percent, limit uint64
	}{
		"the service":           {append(service, t.TempDir(), "--gc-percent", "321", "--memory-limit", "512Mi"), nil, 321, 512 << 20},
		"all in one":            {append(standalone, t.TempDir(), "--gc-percent", "321", "--memory-limit", "1G"), nil, 321, 1e9},
		"by default":            {append(service, t.TempDir(), "--memory-limit", "1Gi"), nil, command.GCPercent, 1 << 30},
		"GOGC goes first":       {append(service, t.TempDir(), "--gc-percent", "321", "--memory-limit", "512Mi"), map[string]string{"GOGC": "100"}, 100, 512 << 20},
		"GOMEMLIMIT goes first": {append(service, t.TempDir(), "--memory-limit", "512Mi"), map[string]string{"GOMEMLIMIT": "off"}, command.GCPercent, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			debug.SetGCPercent(100)
			debug.SetMemoryLimit(math.MaxInt64)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			ctx, end := context.WithCancel(t.Context())
			end() // or after a quarter of a second the percentage follows the heap of this process
			if code, _, stderr := runFor(ctx, tc.args...); code != 1 {
				t.Fatalf("the program exits with %d and says %s", code, stderr)
			}
			got := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
			metrics.Read(got)
			if percent, limit := got[0].Value.Uint64(), got[1].Value.Uint64(); percent != tc.percent || limit != tc.limit {
				t.Errorf("Go is told %d %% and %d bytes, want %d and %d", percent, limit, tc.percent, tc.limit)
			}
		})
	}
}

func TestTheMemoryLimitIsThatOfTheCgroup(t *testing.T) {
	t.Parallel()
	unreadable := errors.Join(errors.New("reading"), fs.ErrPermission)
	for name, tc := range map[string]struct {
		flag     string
		ofCgroup uint64
		err      error
		want     int64
	}{
		"nine tenths of it":                {"0", 1000 << 20, nil, 900 << 20},
		"but not where the flag says so":   {"256Mi", 1000 << 20, nil, 256 << 20},
		"a cgroup without a limit":         {"0", 0, memlimit.ErrNoLimit, math.MaxInt64},
		"no cgroup":                        {"0", 0, memlimit.ErrNoCgroup, math.MaxInt64},
		"a machine that has none":          {"0", 0, memlimit.ErrCgroupsNotSupported, math.MaxInt64},
		"one that nobody may read":         {"0", 0, unreadable, math.MaxInt64},
		"nor where the flag makes it moot": {"256Mi", 0, unreadable, 256 << 20},
	} {
		got, err := command.MemoryLimit(tc.flag, func() (uint64, error) { return tc.ofCgroup, tc.err })
		if got != tc.want {
			t.Errorf("%s: %d bytes, want %d", name, got, tc.want)
		}
		if told := err != nil; told != (errors.Is(tc.err, fs.ErrPermission) && tc.flag == "0") {
			t.Errorf("%s: told %v", name, err)
		}
	}
}

func TestALargeHeapHasAsMuchGarbageAsItIsWorth(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		most  int
		inUse uint64
		made  []uint64
		want  []int
	}{
		"nothing is in use":                 {400, 0, []uint64{0}, []int{400}},
		"so little that the room is enough": {400, 16 * mib, []uint64{0}, []int{400}},
		"so much that it is not":            {400, 32 * mib, []uint64{0}, []int{200}},
		"more than the room":                {400, 1024 * mib, []uint64{0}, []int{100}},
		"who wants less gets less":          {50, 32 * mib, []uint64{0}, []int{50}},
		"as much as is made in half a second, from now on": {
			400, 64 * mib, []uint64{0, 64 * mib, 128 * mib}, []int{100, 200, 200},
		},
		"but not without end":    {1000, 64 * mib, []uint64{0, 1024 * mib}, []int{100, 400}},
		"and for a moment after": {400, 64 * mib, []uint64{64 * mib, 64 * mib, 64 * mib, 64 * mib, 64 * mib, 64 * mib, 64 * mib}, []int{200, 175, 153, 133, 117, 102, 100}},
	} {
		if diff := cmp.Diff(tc.want, command.GCPercents(tc.most, tc.inUse, tc.made...)); diff != "" {
			t.Errorf("%s: percents (-want +got):\n%s", name, diff)
		}
	}
}
