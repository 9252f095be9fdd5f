package countertest

import (
	"context"
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

	newest int64 // the latest sub-window that was counted in
	subs   map[int64]*big.Int

	clock   time.Time // the latest time of a change
	slots   map[counter.LeaseID]time.Time
	settled map[counter.LeaseID]time.Time
}

func newModel() *model { return &model{tallies: map[counter.Key]*tally{}} }

func (m *model) tally(key counter.Key) *tally {
	t := m.tallies[key]
	if t == nil {
		t = &tally{
			used: new(big.Int), subs: map[int64]*big.Int{},
			slots: map[counter.LeaseID]time.Time{}, settled: map[counter.LeaseID]time.Time{},
		}
		m.tallies[key] = t
	}
	return t
}

// counted is the sum of the sub-windows that count at sub.
func (t *tally) counted(sub int64) *big.Int {
	sum := new(big.Int)
	for s, n := range t.subs {
		if s <= sub && s >= sub-counter.SubWindows {
			sum.Add(sum, n)
		}
	}
	return sum
}

// reset is when no more than most is left of what counts at sub.
func (t *tally) reset(w counter.Window, sub, most int64) time.Time {
	s := sub
	for t.counted(s).Cmp(big.NewInt(most)) > 0 {
		s++
	}
	if s == sub {
		return w.Gone(sub)
	}
	return w.Gone(s - counter.SubWindows - 1) // when s begins
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
	if l.Window.Slides() {
		sub := max(l.Window.Sub(now), t.newest)
		return counter.Count{Used: t.counted(sub).Int64(), Reset: t.reset(l.Window, sub, 0)}
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
	ok := true
	for i, l := range s.limits {
		sum := new(big.Int).Add(big.NewInt(counts[i].Used), big.NewInt(hits[i]))
		if hits[i] > 0 && (l.Max <= 0 || sum.Cmp(big.NewInt(min(l.Max, counter.MaxCount))) > 0) {
			ok = false
			if t := s.tally(l.Key); l.Window.Slides() {
				counts[i].Reset = t.reset(l.Window, max(l.Window.Sub(now), t.newest), max(l.Ceiling()-hits[i], 0))
			}
		}
	}
	if !ok {
		return false, nil
	}
	for i, l := range s.limits {
		if hits[i] > 0 {
			t := s.tally(l.Key)
			t.clock = later(t.clock, now)
			t.slots[lease] = expiry.Add(t.clock.Sub(now))
			t.newest = max(t.newest, l.Window.Sub(now))
			t.add(t.newest, big.NewInt(hits[i]))
			t.used, t.end = big.NewInt(counts[i].Used+hits[i]), counts[i].Reset
			counts[i] = s.count(now, l)
		}
	}
	return true, nil
}

// add changes a sub-window, within what a count can hold.
func (t *tally) add(sub int64, n *big.Int) {
	if t.subs[sub] == nil {
		t.subs[sub] = new(big.Int)
	}
	room := big.NewInt(counter.MaxCount)
	if room.Sub(room, t.counted(t.newest)); n.Cmp(room) > 0 {
		n = room
	}
	t.subs[sub] = clamp(n.Add(n, t.subs[sub]))
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
		excess := clamp(big.NewInt(charge.Used))
		excess.Sub(excess, clamp(big.NewInt(charge.Charged)))
		if charge.Window.Slides() {
			t.settle(charge.Window.Sub(now), charge.Window.Sub(s.Taken), excess)
			continue
		}
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

// settle corrects the sub-window that was taken from.
func (t *tally) settle(now, taken int64, excess *big.Int) {
	if max(now, t.newest)-taken > counter.SubWindows || taken > t.newest && excess.Sign() <= 0 {
		return
	}
	t.newest = max(t.newest, taken)
	t.add(taken, excess)
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
		t.slots[lease] = later(t.slots[lease], expiry.Add(clock.Sub(now)))
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
	case n.Cmp(big.NewInt(counter.MaxCount)) > 0:
		return big.NewInt(counter.MaxCount)
	default:
		return n
	}
}
