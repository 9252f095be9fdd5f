package countertest

import (
	"context"
	"math"
	"math/big"
	"sync"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A model is a store as the promises read: a map under one lock, numbers without bounds, nothing ever forgotten.
type model struct {
	mu      sync.Mutex
	tallies map[counter.Key]*tally
}

// A tally is one counter.
type tally struct {
	end  time.Time // of the window that used was taken in
	used *big.Int

	clock   time.Time // the latest time of a change
	slots   map[counter.LeaseID]time.Time
	settled map[counter.LeaseID]time.Time
}

func newModel() *model { return &model{tallies: map[counter.Key]*tally{}} }

func (m *model) tally(key counter.Key) *tally {
	t := m.tallies[key]
	if t == nil {
		t = &tally{used: new(big.Int), slots: map[counter.LeaseID]time.Time{}, settled: map[counter.LeaseID]time.Time{}}
		m.tallies[key] = t
	}
	return t
}

func (m *model) count(now time.Time, l counter.Limit) counter.Count {
	t := m.tally(l.Key)
	if l.Window == counter.InUse {
		now, used := later(now, t.clock), int64(0)
		for _, expiry := range t.slots {
			if expiry.After(now) {
				used++
			}
		}
		return counter.Count{Used: used}
	}
	_, end := l.Window.Bounds(now)
	if end.After(t.end) {
		return counter.Count{Reset: end}
	}
	return counter.Count{Used: t.used.Int64(), Reset: t.end}
}

func (m *model) Open(limits []counter.Limit) counter.Set {
	seen := map[counter.Key]bool{}
	for _, l := range limits {
		if seen[l.Key] || !l.Window.Valid() {
			panic("countertest: wrong set")
		}
		seen[l.Key] = true
	}
	if len(limits) > counter.MaxLimits {
		panic("countertest: too many limits")
	}
	return &modelSet{m, limits}
}

type modelSet struct {
	*model
	limits []counter.Limit
}

func (s *modelSet) Acquire(
	_ context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.limits {
		counts[i] = s.count(now, l)
	}
	for i, l := range s.limits {
		sum := new(big.Int).Add(big.NewInt(counts[i].Used), big.NewInt(hits[i]))
		if hits[i] > 0 && (l.Max <= 0 || sum.Cmp(big.NewInt(l.Max)) > 0) {
			return false, nil
		}
	}
	for i, l := range s.limits {
		if hits[i] > 0 {
			t := s.tally(l.Key)
			t.clock = later(t.clock, now)
			t.slots[lease] = expiry
			t.used, t.end = big.NewInt(counts[i].Used+hits[i]), counts[i].Reset
			counts[i] = s.count(now, l)
		}
	}
	return true, nil
}

func (m *model) Settle(_ context.Context, now time.Time, s counter.Settlement) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, charge := range s.Charges {
		t := m.tally(charge.Key)
		if charge.Window == counter.InUse {
			t.clock = later(t.clock, now)
			delete(t.slots, s.Lease)
			t.settled[s.Lease] = t.clock
			continue
		}
		excess := big.NewInt(max(charge.Used, 0))
		excess.Sub(excess, big.NewInt(max(charge.Charged, 0)))
		_, end := charge.Window.Bounds(s.Taken)
		if !end.After(now) {
			continue
		}
		if end.After(t.end) && excess.Sign() > 0 {
			t.end, t.used = end, new(big.Int)
		}
		if end.Equal(t.end) {
			t.used = clamp(excess.Add(excess, t.used))
		}
	}
	return nil
}

func (m *model) Renew(_ context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		t := m.tally(key)
		clock := later(t.clock, now)
		if settled, ok := t.settled[lease]; ok && clock.Sub(settled) < counter.Remember {
			continue
		}
		t.clock = clock
		t.slots[lease] = later(t.slots[lease], expiry)
	}
	return nil
}

func (m *model) Peek(_ context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range limits {
		counts[i] = m.count(now, l)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func clamp(n *big.Int) *big.Int {
	switch {
	case n.Sign() < 0:
		return new(big.Int)
	case !n.IsInt64():
		return big.NewInt(math.MaxInt64)
	default:
		return n
	}
}
