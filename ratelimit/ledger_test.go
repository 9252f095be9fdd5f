package ratelimit

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

func leaseNumber(n uint64) (id counter.LeaseID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func TestALeaseIsSettledOnce(t *testing.T) {
	t.Parallel()
	first := uint64(math.MaxUint64 - 1) // the numbers wrap
	l, now := newLedger(first), lineStart
	last := first
	for range 4 {
		last++
		l.opened(leaseNumber(last), now)
	}
	taken := now
	for _, test := range []struct {
		does  string
		id    uint64
		after time.Duration
		close bool
		want  *misuseError
	}{
		{"a sign of life", first + 1, time.Minute, false, nil},
		{"its settle", first + 1, time.Minute, true, nil},
		{"the settle again", first + 1, time.Minute, true, errReplayed},
		{"a sign of life afterwards", first + 1, time.Minute, false, errReplayed},
		{"a settle of another", first + 2, time.Minute, true, nil},
		{"a sign of life of a third", first + 3, 50 * time.Minute, false, nil},
		{"and its settle", first + 3, 100 * time.Minute, true, nil},
		{"one of another process", 77, time.Minute, false, nil},
		{"its settle", 77, time.Minute, true, nil},
		{"again", 77, time.Minute, true, errReplayed},
		{"and a sign of life of it", 77, time.Minute, false, errReplayed},
		{"an old one of another process", 78, leaseLifetime + 1, true, errExpired},
		{"one that was never given", last + 1, leaseLifetime + 1, true, errExpired},
	} {
		var got *misuseError
		switch id, at := leaseNumber(test.id), now.Add(test.after); {
		case test.close:
			got = l.close(id, taken, at, last)
		case !l.alive(id, taken, at, last):
			got = errReplayed
		}
		if got != test.want {
			t.Errorf("%s: %v, want %v", test.does, got, test.want)
		}
	}
}

// What is lost does not stay for ever, and neither does what others gave.
func TestTheLedgerIsBounded(t *testing.T) {
	t.Parallel()
	l, now := newLedger(0), lineStart
	for n := range uint64(10 * ledgerShards) {
		l.opened(leaseNumber(n+1), now)
	}
	now = now.Add(silence + time.Minute)
	for n := range uint64(ledgerShards) {
		l.opened(leaseNumber(10*ledgerShards+n+1), now)
	}
	for i := range l.shards {
		if got := len(l.shards[i].open); got != 1 {
			t.Fatalf("shard %d holds %d leases, want the new one", i, got)
		}
	}
	for n := range uint64(maxForeign + 10) {
		if err := l.close(leaseNumber(1<<63+n), now, now, 11*ledgerShards); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(l.settled) + len(l.past); got > maxForeign {
		t.Errorf("%d leases of others are kept, want at most %d", got, maxForeign)
	}
	if err := l.close(leaseNumber(1<<63+maxForeign), now, now, 11*ledgerShards); err != errReplayed {
		t.Errorf("a late one of them again: %v, want that it was settled", err)
	}
}

// A stream may go on for days, and be silent for long.
func TestTheLedgerKeepsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	l, now := newLedger(0), lineStart
	const lives, silent, others = 1, 2, 3
	last := uint64(others)
	other := func() { // which lets all shards be swept
		for range ledgerShards {
			last++
			l.opened(leaseNumber(last), now)
		}
	}
	l.opened(leaseNumber(lives), now)
	for range 60 {
		now = now.Add(silence - time.Minute)
		if !l.alive(leaseNumber(lives), lineStart, now, last) {
			t.Fatalf("after %v a stream that shows signs of life is forgotten", now.Sub(lineStart))
		}
		other()
	}
	l.opened(leaseNumber(silent), now)
	now = now.Add(silence - time.Minute)
	other()
	for _, id := range []uint64{lives, silent} {
		if err := l.close(leaseNumber(id), lineStart, now, last); err != nil {
			t.Errorf("lease %d: %v, want it settled", id, err)
		}
	}
}
