// Package load decides how a server is loaded over HTTP/2: who sends when, how long an answer took, and what is counted. Its client
// is as cheap as one can be, so that most of the machine is left to the server.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// patience is how long a Load that stops waits for answers.
const patience = 5 * time.Second

// A Call is one request as it stands on the wire.
type Call struct {
	Header []hpack.HeaderField // in the order of the wire: those that begin with a colon come first
	Body   []byte
}

// An Answer is what came to a Call. Its Body is good until the function that was given it returns.
type Answer struct {
	Status     string // of HTTP
	GRPCStatus string // empty where there is none
	Message    string // of gRPC, beside a status that is not 0
	Body       []byte
}

// An Outcome is what an Answer means.
type Outcome int

// The outcomes.
const (
	Admitted Outcome = iota
	Refused          // by a limit
	Failed           // no answer, or one that makes no sense
)

// A Plan says what is sent and how. Its functions are called by several goroutines at once.
type Plan struct {
	Address     string // host:port
	Connections int
	// Outstanding calls over all connections: with each answer the next is sent (closed loop). At least one for each connection.
	Outstanding int
	// Rate is how many calls a second are sent, however many are outstanding (open loop). 0: closed loop.
	Rate float64
	// Total is how many calls are sent. 0: until Stop.
	Total int64

	// Next chooses the next call.
	Next func(*rand.Rand) Call
	// Read says what an answer means, and which call belongs to it and follows, if any. How long that takes is not counted, and
	// no other follows it.
	Read func(*Answer) (Outcome, *Call)
}

// A Result is what was counted.
type Result struct {
	Admitted, Refused, Failed int64
	// Failure is why the first of those that failed did.
	Failure string
	// Latency of calls, in an open loop from when they ought to have been sent.
	Latency Histogram
}

// Calls is how many were answered, or failed.
func (r *Result) Calls() int64 { return r.Admitted + r.Refused + r.Failed }

// A Load is under way from Start to Stop, or until all of the plan is sent and answered.
type Load struct {
	plan        *Plan
	connections []*connection
	left        atomic.Int64 // of the plan's Total
	counting    atomic.Bool
	stopping    atomic.Bool
	stopped     chan struct{}
	ended       sync.WaitGroup
}

// Start opens the connections and begins to send. Nothing is counted before Count says so.
func Start(ctx context.Context, p *Plan) (*Load, error) {
	l := newLoad(p)
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

func newLoad(p *Plan) *Load {
	l := &Load{plan: p, stopped: make(chan struct{})}
	l.left.Store(p.Total)
	return l
}

func (l *Load) start(ctx context.Context) error {
	p := l.plan
	for i := range p.Connections {
		c, err := l.connect(ctx, i)
		if err != nil {
			return errors.Join(err, l.close())
		}
		l.connections = append(l.connections, c)
	}
	for i, c := range l.connections {
		l.ended.Go(func() { c.end(c.receive()) })
		if p.Rate > 0 {
			l.ended.Go(func() { c.end(c.sendOnTime(i)) })
		}
	}
	return nil
}

// Run sends all of a plan that has a Total, and counts everything.
func Run(ctx context.Context, p *Plan) (*Result, error) {
	l := newLoad(p)
	l.Count(true) // The first answer may come before start returns.
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		l.ended.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	result, err := l.Stop()
	return result, errors.Join(ctx.Err(), err)
}

// Count says whether answers are counted from now on.
func (l *Load) Count(on bool) { l.counting.Store(on) }

// Stop sends nothing more, waits for what is outstanding and returns what was counted. It is called once.
func (l *Load) Stop() (*Result, error) {
	l.stopping.Store(true)
	close(l.stopped)
	for _, c := range l.connections {
		c.hurry()
	}
	l.ended.Wait()
	var all Result
	var errs []error
	for _, c := range l.connections {
		all.add(&c.result)
		errs = append(errs, c.err)
	}
	return &all, errors.Join(append(errs, l.close())...)
}

func (l *Load) close() error {
	for _, c := range l.connections {
		if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("closing a connection: %w", err)
		}
	}
	return nil
}

// mayBegin takes one call from what is left of the plan.
func (l *Load) mayBegin() bool {
	return !l.stopping.Load() && (l.plan.Total == 0 || l.left.Add(-1) >= 0)
}

// over says that no call will begin any more.
func (l *Load) over() bool { return l.stopping.Load() || l.plan.Total > 0 && l.left.Load() <= 0 }

func (r *Result) count(o Outcome, why string, took time.Duration) {
	switch o {
	case Admitted:
		r.Admitted++
	case Refused:
		r.Refused++
	default:
		r.Failed++
		if r.Failure == "" {
			r.Failure = why
		}
	}
	r.Latency.Add(took)
}

func (r *Result) add(other *Result) {
	r.Admitted += other.Admitted
	r.Refused += other.Refused
	r.Failed += other.Failed
	if r.Failure == "" {
		r.Failure = other.Failure
	}
	r.Latency.Merge(&other.Latency)
}
