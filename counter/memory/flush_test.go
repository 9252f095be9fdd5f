package memory

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/internal/boltfile"
)

// TestFailedFlushIsMadeUpFor closes the database under a store, so that a flush fails, and gives it back.
func TestFailedFlushIsMadeUpFor(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, time.February, 14, 12, 30, 30, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "counters.db")
	limits := []counter.Limit{
		{Key: counter.Key{1}, Window: counter.Minute, Max: 9}, {Key: counter.Key{2}, Window: counter.Day, Max: 9},
	}
	store := mustLoad(t, path, now)
	set, counts := store.Open(limits), make([]counter.Count, len(limits))
	take := func(at time.Time, hits ...int64) {
		if ok, err := set.Acquire(t.Context(), at, counter.LeaseID{}, at, hits, counts); !ok || err != nil {
			t.Fatalf("Acquire: %v, %v", ok, err)
		}
	}
	take(now, 1, 2)
	if err := store.Flush(now); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	take(now, 1, 1)
	if err := store.Flush(now); err == nil {
		t.Fatalf("Flush succeeds without a database")
	}
	later := now.Add(3 * time.Minute)
	store.Sweep(later) // takes away the minute, which has yet to go from the file
	take(later, 4, 1)
	if err := store.Flush(later); err == nil {
		t.Fatalf("Flush succeeds without a database")
	}

	db, err := boltfile.Open(path)
	if err != nil {
		t.Fatalf("opening again: %v", err)
	}
	store.file.db = db
	if err := store.Flush(later); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := mustLoad(t, path, later).Peek(t.Context(), later, limits, counts); err != nil {
		t.Fatalf("Peek: %v", err)
	}
	if diff := cmp.Diff([]int64{4, 4}, []int64{counts[0].Used, counts[1].Used}); diff != "" {
		t.Errorf("counters after a restart (-want +got):\n%s", diff)
	}
}

func mustLoad(t *testing.T, path string, now time.Time) *Store {
	t.Helper()
	s, err := Load(path, now)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
