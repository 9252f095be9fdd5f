package memory_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// childFile names the counter file of a process that TestKilledProcess starts.
const childFile = "TIERKEEPER_TEST_COUNTER_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		os.Exit(child(context.Background(), path)) //nolint:forbidigo // a main function has no context
	}
	os.Exit(m.Run())
}

func load(t *testing.T, path string, now time.Time) *memory.Store {
	t.Helper()
	store, err := memory.Load(path, now)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func flush(t *testing.T, store *memory.Store, now time.Time) {
	t.Helper()
	if err := store.Flush(now); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

// stop flushes and closes, as a process does that is asked to end.
func stop(t *testing.T, store *memory.Store, now time.Time) {
	t.Helper()
	flush(t, store, now)
	if err := store.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func newPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "counters.db")
}

// edit opens the file as a database, and has do change the bucket of the counters.
func edit(t *testing.T, path string, do func(*bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatalf("opening %s: %v", path, err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return do(tx.Bucket([]byte("counters"))) }); err != nil {
		t.Fatalf("changing %s: %v", path, err)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("closing %s: %v", path, err)
	}
}

// inFile returns the number of counters in the file.
func inFile(t *testing.T, path string) int {
	t.Helper()
	n := 0
	edit(t, path, func(b *bbolt.Bucket) error {
		n = b.Stats().KeyN
		return nil
	})
	return n
}

func TestCountsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), everyWindow()
	store := load(t, path, noon)
	set := store.Open(limits)
	acquire(t, set, noon, limits)
	flush(t, store, noon)
	acquire(t, set, noon, limits)
	settlement := counter.Settlement{Taken: noon, Charges: []counter.Charge{
		{Key: key(3), Window: counter.Hour, Charged: 1, Used: 9}, {Key: key(9), Window: counter.SlidingHour, Charged: 1, Used: 5},
	}}
	if err := store.Settle(t.Context(), noon, settlement); err != nil {
		t.Fatalf("Settle: %v", err)
	}
	stop(t, store, noon)

	// In the order Second, Minute, Hour, Day, Month, InUse, SlidingSecond, SlidingMinute, SlidingHour.
	for _, step := range []struct {
		now  time.Time
		want []int64
	}{
		{noon, []int64{0, 2, 10, 2, 2, 0, 0, 2, 6}},
		{noon.Add(time.Minute), []int64{0, 0, 10, 2, 2, 0, 0, 2, 6}},
		{noon.Add(time.Minute + 4*time.Second), []int64{0, 0, 10, 2, 2, 0, 0, 0, 6}},
		{noon.Add(time.Hour), []int64{0, 0, 0, 2, 2, 0, 0, 0, 6}},
		{noon.Add(time.Hour + 5*time.Minute), []int64{0, 0, 0, 2, 2, 0, 0, 0, 0}},
		{noon.Add(24 * time.Hour), []int64{0, 0, 0, 0, 2, 0, 0, 0, 0}},
		{noon.Add(20 * 24 * time.Hour), []int64{0, 0, 0, 0, 0, 0, 0, 0, 0}},
	} {
		store := load(t, path, step.now)
		if diff := cmp.Diff(step.want, used(t, store, step.now, limits)); diff != "" {
			t.Errorf("counters after a restart at %v (-want +got):\n%s", step.now, diff)
		}
		stop(t, store, step.now)
	}
	if n := inFile(t, path); n != 0 {
		t.Errorf("%d counters remain in the file after all windows have ended", n)
	}
}

// TestClockSetBack shows that a restart cures what a clock that was far ahead has left behind.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), everyWindow()
	ahead := noon.AddDate(10, 0, 0)
	store := load(t, path, ahead)
	acquire(t, store.Open(limits), ahead, limits)
	stop(t, store, ahead)

	store = load(t, path, noon)
	if ok, counts := acquire(t, store.Open(limits), noon, limits); !ok || counts[1].Reset.After(noon.Add(time.Minute)) {
		t.Errorf("ok %v, counts %v", ok, counts)
	}
}

// TestClockSetBackALittle shows that a restart then forgets of a sliding window what lies in the future and no more.
func TestClockSetBackALittle(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), []counter.Limit{{Key: key(1), Window: counter.SlidingMinute, Max: 9}}
	store := load(t, path, noon)
	set := store.Open(limits)
	for _, since := range []time.Duration{0, 20 * time.Second, 40 * time.Second, 41 * time.Second} {
		acquire(t, set, noon.Add(since), limits)
	}
	stop(t, store, noon.Add(41*time.Second))

	store = load(t, path, noon.Add(30*time.Second))
	for _, step := range []struct {
		since time.Duration
		want  int64
	}{{30 * time.Second, 2}, {64 * time.Second, 1}, {84 * time.Second, 0}} {
		if got := used(t, store, noon.Add(step.since), limits)[0]; got != step.want {
			t.Errorf("the counter holds %d after %v, want %d", got, step.since, step.want)
		}
	}
}

func TestFlushWritesChangesOnly(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), everyWindow()
	store := load(t, path, noon)
	set := store.Open(limits)
	acquire(t, set, noon, limits)
	flush(t, store, noon)
	before := content(t, path)
	flush(t, store, noon)
	limits[0].Max = 0
	acquire(t, store.Open(limits), noon, limits) // refused
	flush(t, store, noon)
	if !bytes.Equal(before, content(t, path)) {
		t.Errorf("a flush without changes writes to the file")
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFlushTakesOutWhatIsOver(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), everyWindow()
	store := load(t, path, noon)
	some := store.Open(limits[1:3])
	acquire(t, store.Open(limits), noon, limits)
	flush(t, store, noon)
	tomorrow := noon.Add(24 * time.Hour)
	store.Sweep(tomorrow)
	acquire(t, some, tomorrow, limits[1:3]) // the minute and the hour, opened again before the flush
	stop(t, store, tomorrow)
	if n := inFile(t, path); n != 3 {
		t.Errorf("%d counters are in the file, want the minute, the hour and the month", n)
	}
	if diff := cmp.Diff([]int64{0, 1, 1, 0, 1, 0, 0, 0, 0}, used(t, load(t, path, tomorrow), tomorrow, limits)); diff != "" {
		t.Errorf("counters after a restart (-want +got):\n%s", diff)
	}
}

// TestFlushLeavesOutWhatIsOver shows that neither a window that has ended, nor one that a sweep with another clock has
// forgotten, is written.
func TestFlushLeavesOutWhatIsOver(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ swept, flushed time.Time }{
		"ended":               {swept: noon, flushed: noon.AddDate(0, 1, 0)},
		"forgotten meanwhile": {swept: noon.AddDate(0, 1, 0), flushed: noon},
	} {
		path, limits := newPath(t), everyWindow()
		store := load(t, path, noon)
		acquire(t, store.Open(limits), noon, limits)
		store.Sweep(test.swept)
		stop(t, store, test.flushed)
		if n := inFile(t, path); n != 0 {
			t.Errorf("%d counters that have %s are in the file", n, name)
		}
	}
}

// TestRestarts compares a store that is flushed, swept and restarted at random with one that lives on.
func TestRestarts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "counters.db")
		now, limits := noon, keptWindows()
		living, mortal := memory.New(), load(t, path, now)
		defer func() { _ = mortal.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				if diff := cmp.Diff(used(t, living, now, limits), used(t, mortal, now, limits)); diff != "" {
					rt.Fatalf("counters at %v (-want +got):\n%s", now, diff)
				}
			},
			"acquire": func(rt *rapid.T) {
				some := rapid.Permutation(limits).Draw(rt, "limits")[:rapid.IntRange(1, len(limits)).Draw(rt, "size")]
				want, _ := acquire(t, living.Open(some), now, some)
				if ok, _ := acquire(t, mortal.Open(some), now, some); ok != want {
					rt.Fatalf("Acquire is %v, want %v", ok, want)
				}
			},
			"settle": func(rt *rapid.T) {
				l := rapid.SampledFrom(limits).Draw(rt, "limit")
				used := rapid.Int64Range(0, 3).Draw(rt, "used")
				taken := now.Add(-rapid.SampledFrom([]time.Duration{0, 9 * time.Second, 20 * time.Minute}).Draw(rt, "ago"))
				for _, s := range []counter.Store{living, mortal} {
					settlement := counter.Settlement{Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window, Charged: 1, Used: used}}}
					if err := s.Settle(t.Context(), now, settlement); err != nil {
						rt.Fatalf("Settle: %v", err)
					}
				}
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{
					time.Second, 13 * time.Second, time.Minute, 7 * time.Minute, 25 * time.Minute, time.Hour, 12 * time.Hour, 24 * time.Hour, 9 * 24 * time.Hour,
				}).Draw(rt, "wait"))
			},
			"sweep":   func(*rapid.T) { mortal.Sweep(now) },
			"flush":   func(*rapid.T) { flush(t, mortal, now) },
			"restart": func(*rapid.T) { stop(t, mortal, now); mortal = load(t, path, now) },
		})
	})
}

// TestFlushWhileAcquiring loses nothing that changes while a flush is under way.
func TestFlushWhileAcquiring(t *testing.T) {
	t.Parallel()
	path, limits := newPath(t), keptWindows()
	for i := range limits {
		limits[i].Max = 1 << 40
	}
	store := load(t, path, noon)
	var (
		workers sync.WaitGroup
		working atomic.Int64
	)
	const goroutines, each = 8, 2000
	working.Store(goroutines)
	for range goroutines {
		workers.Go(func() {
			defer working.Add(-1)
			set := store.Open(limits)
			for range each {
				acquire(t, set, noon, limits)
			}
		})
	}
	for working.Load() > 0 {
		flush(t, store, noon)
	}
	workers.Wait()
	stop(t, store, noon)
	want := slices.Repeat([]int64{goroutines * each}, len(limits))
	if diff := cmp.Diff(want, used(t, load(t, path, noon), noon, limits)); diff != "" {
		t.Errorf("counters after a restart (-want +got):\n%s", diff)
	}
}

// TestKilledProcess starts a process that flushes one hit, takes another and is killed.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this test itself
	cmd.Env = append(os.Environ(), childFile+"="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "flushed\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}

	_, err = memory.Load(path, noon)
	want := "opening counter file " + path + ": another process holds it: is another tierkeeper running with this --data-dir?"
	if err == nil || err.Error() != want {
		t.Errorf("a second process gets the error\n%v\nwant\n%s", err, want)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if diff := cmp.Diff([]int64{0, 1, 1, 1, 1, 0, 0, 1, 1}, used(t, load(t, path, noon), noon, everyWindow())); diff != "" {
		t.Errorf("counters after the process was killed (-want +got):\n%s", diff)
	}
}

func child(ctx context.Context, path string) int {
	store, err := memory.Load(path, noon)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	limits := everyWindow()
	set, counts, hits := store.Open(limits), make([]counter.Count, len(limits)), slices.Repeat([]int64{1}, len(limits))
	for _, flush := range []bool{true, false} {
		if ok, err := set.Acquire(ctx, noon, counter.LeaseID{}, noon.Add(time.Minute), hits, counts); !ok || err != nil {
			fmt.Fprintln(os.Stderr, "Acquire:", ok, err)
			return 1
		}
		if flush {
			if err := store.Flush(noon); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, "flushed")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
	return 0
}

func TestStoreWithoutFile(t *testing.T) {
	t.Parallel()
	store := memory.New()
	flush(t, store, noon)
	if err := store.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
