package redis

import (
	"sync"

	"github.com/redis/rueidis"
)

const (
	// atOnce is how many batches are on their way at a time: Redis works at one while others are written and read, or are somewhere in
	// the network.
	atOnce = 4
	// batchMost bounds a batch: nobody sees the first answer of one before the last is there.
	batchMost = 32
)

// A pipeline sends calls in batches: those that come while enough batches are on their way wait, and go together. Each batch takes
// one write and one read, here and in Redis, and these cost more than all else of a call. A call that comes alone waits for nothing.
type pipeline struct {
	mu      sync.Mutex
	waiting []*call
	batches int // on their way
}

// send has the call sent, and ended when its answer is there.
func (p *pipeline) send(s *Store, c *call) {
	p.mu.Lock()
	p.waiting = append(p.waiting, c)
	more := p.batches < atOnce
	if more {
		p.batches++
	}
	p.mu.Unlock()
	if more {
		go p.run(s)
	}
}

// run sends one batch after the other until nobody waits.
func (p *pipeline) run(s *Store) {
	b := batch{store: s}
	for p.fill(&b) {
		b.run()
	}
}

// fill takes the next batch from those that wait, but for those whose callers have gone. It reports false if there are none.
func (p *pipeline) fill(b *batch) bool {
	b.calls = b.calls[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.waiting) && len(b.calls) < batchMost {
		if c := p.waiting[n]; !c.over.Load() {
			b.calls = append(b.calls, c)
		}
		n++
	}
	left := copy(p.waiting, p.waiting[n:])
	clear(p.waiting[left:])
	p.waiting = p.waiting[:left]
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
	clear(b.calls) // They are used again.
}
