package redis

import (
	"sync"

	"github.com/redis/rueidis"
)

const (
	// few is how many calls are on their way of which none waits for another.
	few = 8
	// atOnce is how many batches are on their way at a time, where there are more calls: Redis works at one while the other is written,
	// read, or somewhere in the network.
	atOnce = 2
	// batchMost bounds a batch: nobody sees the first answer of one before the last is there.
	batchMost = 32
)

// A pipeline sends calls in batches. While there are few, each goes at once. Those that come when more are on their way wait until a batch
// is back, and go together: it takes one write and one read, here and in Redis, and these cost more than all else of a call.
type pipeline struct {
	mu      sync.Mutex
	waiting []*call
	sent    int // calls on their way
	batches int // that they are in
}

// send has the call sent, and ended when its answer is there.
func (p *pipeline) send(s *Store, c *call) {
	p.mu.Lock()
	p.waiting = append(p.waiting, c)
	more := p.mayHave(p.batches + 1)
	if more {
		p.batches++
	}
	p.mu.Unlock()
	if more {
		go p.run(s)
	}
}

// mayHave reports whether so many batches may be on their way.
func (p *pipeline) mayHave(batches int) bool { return batches <= atOnce || p.sent < few }

// run sends one batch after the other.
func (p *pipeline) run(s *Store) {
	b := batch{store: s}
	for p.fill(&b) {
		b.run()
	}
}

// fill takes the next batch from those that wait, but for those whose callers have gone, when the one before is back. It reports false
// if nobody waits, or others send them.
func (p *pipeline) fill(b *batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent -= len(b.calls)
	b.calls = b.calls[:0]
	n := 0
	for p.mayHave(p.batches) && n < len(p.waiting) && len(b.calls) < batchMost {
		if c := p.waiting[n]; !c.over.Load() {
			b.calls = append(b.calls, c)
		}
		n++
	}
	left := copy(p.waiting, p.waiting[n:])
	clear(p.waiting[left:])
	p.waiting = p.waiting[:left]
	p.sent += len(b.calls)
	if len(b.calls) == 0 {
		p.batches--
	}
	return len(b.calls) > 0
}

// A batch is calls that go together.
type batch struct {
	store    *Store
	calls    []*call
	commands []rueidis.Completed
}

func (b *batch) run() {
	b.commands = b.commands[:0]
	for _, c := range b.calls {
		var room [2]string
		b.commands = append(b.commands, b.store.client.B().Evalsha().Sha1(c.script.hash).Numkeys(int64(len(c.keys))).Key(c.keys...).Arg(c.args(&room)...).Build())
	}
	for i, result := range b.store.client.DoMulti(b.store.ctx, b.commands...) {
		answer, err := result.ToString()
		if e, ok := rueidis.IsRedisErr(err); ok && e.IsNoScript() {
			b.calls[i].run(b.store)
			continue
		}
		b.calls[i].end(b.store, answer, explain(err))
	}
	clear(b.calls) // They are used again; how many they were is still to be told.
}
