package redis

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A view is the blocks that a process knows of.
type view struct {
	// latest is the end of the block that ends last, in nanoseconds since 1970.
	latest atomic.Int64

	reading sync.Mutex // one refresh after the other

	mu     sync.RWMutex
	blocks map[counter.Subject]counter.Block
	since  []change // that came while all blocks were read
	open   bool     // all blocks are being read
}

// far is how far ahead a block may begin: the clocks of those who make them differ a little. One of a clock that was wrong is not in
// force, or it would be for as long as the clock was ahead.
const far = time.Minute

func inForce(b counter.Block, now time.Time) bool {
	return now.Before(b.Until) && !b.Since.After(now.Add(far))
}

// A change is a block, or the end of one.
type change struct {
	block  counter.Block
	lifted bool
}

func (v *view) any(now time.Time) bool { return now.UnixNano() < v.latest.Load() }

func (v *view) blockOf(now time.Time, s counter.Subject) (counter.Block, bool) {
	if !v.any(now) {
		return counter.Block{}, false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	b, known := v.blocks[s]
	if !known || !inForce(b, now) {
		return counter.Block{}, false
	}
	return b, true
}

func (v *view) learn(b counter.Block) { v.change(change{block: b}) }

func (v *view) forget(s counter.Subject) { v.change(change{counter.Block{Subject: s}, true}) }

func (v *view) change(c change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.apply(c)
	if v.open {
		v.since = append(v.since, c)
	}
}

// apply must be called with the lock held.
func (v *view) apply(c change) {
	if c.lifted {
		delete(v.blocks, c.block.Subject)
		return
	}
	v.blocks[c.block.Subject] = c.block
	v.latest.Store(max(v.latest.Load(), c.block.Until.UnixNano()))
}

// refresh makes the view what read returns, and what has changed since it was called. It returns the blocks in force.
func (v *view) refresh(now time.Time, read func() ([]counter.Block, error)) ([]counter.Block, error) {
	v.reading.Lock()
	defer v.reading.Unlock()
	v.mu.Lock()
	v.open = true
	v.mu.Unlock()
	all, err := read()

	v.mu.Lock()
	defer v.mu.Unlock()
	changes := v.since
	v.open, v.since = false, nil
	if err != nil {
		return nil, err
	}
	v.blocks = make(map[counter.Subject]counter.Block, len(all))
	for _, b := range all {
		if inForce(b, now) {
			v.apply(change{block: b})
		}
	}
	for _, c := range changes {
		v.apply(c)
	}
	latest := int64(0)
	for _, b := range v.blocks {
		latest = max(latest, b.Until.UnixNano())
	}
	v.latest.Store(latest)
	return v.all(now), nil
}

// all are the blocks in force. It is called with the lock held.
func (v *view) all(now time.Time) (all []counter.Block) {
	for _, b := range v.blocks {
		if inForce(b, now) {
			all = append(all, b)
		}
	}
	return all
}

// Known lists the blocks in force of which this process knows, in no order, without asking Redis.
func (f *Failures) Known(now time.Time) []counter.Block {
	f.view.mu.RLock()
	defer f.view.mu.RUnlock()
	return f.view.all(now)
}
