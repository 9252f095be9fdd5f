package ratelimit

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

const (
	// leaseLifetime is how old a lease of another process may be, and silence how long one of our own stays open without a sign of
	// life, of which Envoy sends six a minute. What is settled later than that was lost.
	leaseLifetime = 24 * time.Hour
	silence       = time.Hour
	// maxForeign bounds what is remembered of leases that other processes gave.
	maxForeign   = 1 << 20
	ledgerShards = 64
	sweepLedger  = 10 * time.Minute
)

// A ledger knows which leases may still be settled, so that none is settled twice: a second time it would give back once
// more what was given back before. Of its own leases it keeps those that are open, which are as many as requests under way.
// Of those of other processes, replicas or an earlier life of this one, it keeps which ones it has settled, the latest
// million of them. It is safe for concurrent use.
type ledger struct {
	first  uint64 // the lease before the first of this process
	shards [ledgerShards]ledgerShard

	mu            sync.Mutex
	settled, past map[counter.LeaseID]struct{} // of other processes, in two generations
}

type ledgerShard struct {
	mu    sync.Mutex
	open  map[counter.LeaseID]int64 // the last sign of life, in seconds since 1970
	swept int64
}

func newLedger(first uint64) *ledger {
	l := &ledger{first: first, settled: map[counter.LeaseID]struct{}{}}
	for i := range l.shards {
		l.shards[i].open = map[counter.LeaseID]int64{}
	}
	return l
}

func (l *ledger) shard(id counter.LeaseID) *ledgerShard { return &l.shards[id[len(id)-1]%ledgerShards] }

// opened notes that a lease was given.
func (l *ledger) opened(id counter.LeaseID, now time.Time) {
	s, at := l.shard(id), now.Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[id] = at
	if at-s.swept < int64(sweepLedger/time.Second) {
		return
	}
	s.swept = at
	for id, seen := range s.open {
		if at-seen > int64(silence/time.Second) {
			delete(s.open, id)
		}
	}
}

// alive notes a sign of life, and reports whether the lease is open.
func (l *ledger) alive(id counter.LeaseID, taken, now time.Time, last uint64) bool {
	if !l.own(id, last) {
		return l.foreign(id, taken, now, false) == nil
	}
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[id]; !open {
		return false
	}
	s.open[id] = now.Unix()
	return true
}

// close notes that a lease is settled, and reports why it must not be.
func (l *ledger) close(id counter.LeaseID, taken, now time.Time, last uint64) *misuseError {
	if !l.own(id, last) {
		return l.foreign(id, taken, now, true)
	}
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[id]; !open {
		return errReplayed
	}
	delete(s.open, id)
	return nil
}

// close notes that a lease is settled, or says why it must not be.
func (l *leases) close(held *lease, now time.Time) error {
	if err := l.ledger.close(held.id, held.taken, now, l.last.Load()); err != nil {
		return err
	}
	return nil
}

// alive notes a sign of life of a lease, and reports whether it is open.
func (l *leases) alive(held *lease, now time.Time) bool {
	return l.ledger.alive(held.id, held.taken, now, l.last.Load())
}

var (
	errReplayed = &misuseError{replayedLease, "was settled before"}
	errExpired  = &misuseError{expiredLease, "has expired"}
)

// own reports whether this process gave the lease. The last one that it gave is last.
func (l *ledger) own(id counter.LeaseID, last uint64) bool {
	n := binary.BigEndian.Uint64(id[:])
	return n-l.first-1 < last-l.first // also where the numbers wrap
}

func (l *ledger) foreign(id counter.LeaseID, taken, now time.Time, settle bool) *misuseError {
	if now.Sub(taken) > leaseLifetime {
		return errExpired
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.settled[id]
	_, past := l.past[id]
	switch {
	case known || past:
		return errReplayed
	case !settle:
		return nil
	case len(l.settled) >= maxForeign/2:
		l.settled, l.past = map[counter.LeaseID]struct{}{}, l.settled
	}
	l.settled[id] = struct{}{}
	return nil
}
