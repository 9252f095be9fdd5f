package redis

import "sync"

const (
	// few is how many calls are on their way of which none waits for another. Where there are more there is one batch at a time: the larger
	// a batch is the less each of its calls costs, and two at once are half as large.
	few = 4
	// batchMost bounds the calls of a batch, and bytesMost their requests, of which each counter has a part: nobody sees the first answer of
	// one before the last is there, and Redis does nothing else meanwhile.
	batchMost = 64
	bytesMost = 16 << 10
)

// A pipeline sends calls in batches, each of which is one run of a script. While there are few, each goes at once. Those that come when more
// are on their way wait until a batch is back, or they make a whole one, and go together: a run takes one write and one read, here and in
// Redis, and these cost more than all else of a call.
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
func (p *pipeline) mayHave(batches int) bool {
	return batches <= 1 || p.sent < few || len(p.waiting) >= batchMost
}

// run sends one batch after the other, until nobody waits or others send them.
func (p *pipeline) run(s *Store) {
	b := batch{store: s}
	for p.fill(&b) {
		b.run()
	}
}

// fill makes the next batch of the one before, which is back. It reports false if there is none to be sent.
func (p *pipeline) fill(b *batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent -= len(b.calls)
	b.reset()
	if p.mayHave(p.batches) {
		p.take(b)
	}
	p.sent += len(b.calls)
	if len(b.calls) == 0 {
		p.batches--
	}
	return len(b.calls) > 0
}

// take has those go that wait, but for those whose callers have gone. Who does not fit goes on to wait, before all others: the first who
// waits always goes.
func (p *pipeline) take(b *batch) {
	left, n := p.waiting[:0], 0
	for ; n < len(p.waiting) && len(b.calls) < batchMost; n++ {
		switch c := p.waiting[n]; {
		case c.over.Load():
		case b.fits(c):
			b.add(c)
		default:
			left = append(left, c)
		}
	}
	left = append(left, p.waiting[n:]...)
	clear(p.waiting[len(left):])
	p.waiting = left
}

// A batch is calls of one script that go together.
type batch struct {
	store    *Store
	calls    []*call
	keys     []string
	requests []string
	bytes    int // of requests
}

func (b *batch) reset() {
	clear(b.calls)
	clear(b.keys)
	clear(b.requests)
	b.calls, b.keys, b.requests, b.bytes = b.calls[:0], b.keys[:0], b.requests[:0], 0
}

// fits reports whether a call can go with the others: one of another script cannot.
func (b *batch) fits(c *call) bool {
	return len(b.calls) == 0 || c.script == b.calls[0].script && b.bytes+len(c.request) <= bytesMost
}

func (b *batch) add(c *call) {
	b.calls = append(b.calls, c)
	b.keys = append(b.keys, c.keys...)
	b.requests = append(b.requests, c.request)
	b.bytes += len(c.request)
}

// run sends the batch, and ends each of its calls: by an answer or an error of its own, or all by one if there is no answer.
func (b *batch) run() {
	answers, err := answersTo(len(b.calls), b.calls[0].script.Exec(b.store.ctx, b.store.client, b.keys, b.requests))
	if err != nil {
		for _, c := range b.calls {
			c.end(b.store, "", err)
		}
		return
	}
	for i, c := range b.calls {
		answer, err := answerOf(&answers[i])
		c.end(b.store, answer, err)
	}
}
