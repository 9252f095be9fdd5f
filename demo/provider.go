package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"k8s.io/utils/clock"
)

// MaxBodyBytes is the largest request body that is taken; a larger one gets 413.
const MaxBodyBytes = 64 << 20

// A Provider answers as OpenAI, Anthropic and Google do. It is an http.Handler for HTTP/1.1, safe for concurrent use.
type Provider struct {
	switches Switches
	sleep    func(context.Context, time.Duration) error
	now      func() time.Time
	history  *history
	failures failures
}

// An Option changes a Provider that is being made.
type Option func(*Provider)

// WithSwitches sets what holds for every request whose own headers do not say otherwise.
func WithSwitches(s Switches) Option { return func(p *Provider) { p.switches = s } }

// WithSleep replaces the timers of the delays. The function returns an error, early, when its context ends, and is
// safe for concurrent use.
func WithSleep(sleep func(context.Context, time.Duration) error) Option {
	return func(p *Provider) { p.sleep = sleep }
}

// WithNow replaces the clock that dates answers and records. The function is safe for concurrent use.
func WithNow(now func() time.Time) Option { return func(p *Provider) { p.now = now } }

// WithHistory sets how many requests are remembered, at least 1; 1000 without it.
func WithHistory(n int) Option { return func(p *Provider) { p.history = newHistory(n) } }

// New makes a Provider with real timers and no switch set.
func New(options ...Option) *Provider {
	p := &Provider{sleep: sleep, now: clock.RealClock{}.Now, history: newHistory(1000)}
	for _, o := range options {
		o(p)
	}
	return p
}

// Requests returns copies of the latest requests, oldest first, those still being answered among them.
// GET /healthz and GET /demo leave none.
func (p *Provider) Requests() []Request { return p.history.list() }

// ServeHTTP answers one request. It panics with http.ErrAbortHandler where the connection must break.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /healthz":
		_, _ = io.WriteString(w, "ok\n") // a client that left has nobody to be told
	case "GET /demo":
		_, _ = io.WriteString(w, Help())
	case "GET /demo/requests":
		p.history.serve(w)
	default:
		p.exchange(w, r)
	}
}

var (
	errAbort = errors.New("the connection is to break")
	errReset = errors.New("the connection is to be reset")
)

func (p *Provider) exchange(w http.ResponseWriter, r *http.Request) {
	x := &exchange{provider: p, route: routeOf(r), request: r}
	x.record, x.sequence = p.history.begin(r, p.now())
	x.writer = &meteredWriter{w, x.note}
	w.Header().Set("X-Request-Id", x.record.ID)
	w.Header().Set("Request-Id", x.record.ID)

	err := x.serve()
	if fault := new(problem); errors.As(err, &fault) {
		err = x.reply(fault.status, "application/json", x.route.problem(fault, x.record.ID))
	}
	switch {
	case err == nil:
		x.end(Done)
	case errors.Is(err, errReset):
		x.end(Aborted)
		reset(w)
	case errors.Is(err, errAbort):
		x.end(Aborted)
		panic(http.ErrAbortHandler)
	default:
		// Even if it was not the client but the server's own end that stopped the answer,
		// a cut answer must not look like a whole one.
		x.end(ClientGone)
		panic(http.ErrAbortHandler)
	}
}

// reset closes the connection by RST where there is one to be had.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the close is a FIN, which ends the connection as well
	}
	_ = conn.Close() // it is gone either way
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
