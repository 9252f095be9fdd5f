// Package demo is a provider of models that has no model: it answers the APIs of OpenAI and Anthropic with words from a
// list, so that a gateway can be tried, and tested, without an account anywhere. It decides what an answer costs and
// remembers what it really sent, so that a test can hold what a gateway charged against it.
//
// # Routes
//
//	POST /v1/chat/completions   OpenAI, JSON or SSE ("stream": true); usage in a stream only with stream_options.include_usage
//	POST /v1/embeddings         OpenAI
//	POST /v1/messages           Anthropic, JSON or SSE; max_tokens may be left out, which the real one refuses
//	GET  /healthz               200
//	GET  /demo                  the switches below, as text
//	GET  /demo/requests         the latest requests, as JSON, with digests in place of what may be secret
//	any other                   200 and a small JSON object; the body is read and thrown away
//
// # What is a token
//
// Input: the UTF-8 bytes of all texts of the request (messages, system, input; neither roles nor names, tools or images),
// divided by 4 and rounded up, at least 1. Embedding input that is already tokens counts as it is.
//
// Output: words of three letters, which with the space between them make 4 bytes each, so that output sent back as input
// counts the same. There are 32 of them, or as many as x-demo-tokens says, but never more than the request allows.
// Every token of a stream is one event.
//
// # Switches
//
// Headers of a request; [WithSwitches] sets them for all requests that do not say otherwise. The body is read before
// any of them acts; x-demo-reset and x-demo-status act before it is understood.
//
//	x-demo-abort: 10            break the connection after so many streamed tokens, 0 to 1000000, or within a JSON body (off: do not)
//	x-demo-delay: 500ms         wait before the headers, up to 1h
//	x-demo-ratelimit: on        send rate limit headers of the provider's own (off: do not)
//	x-demo-reset: on            reset the connection before the headers (off: do not)
//	x-demo-status: 503          answer with this error, 400 to 599, without usage (200: do not)
//	x-demo-token-delay: 100ms   wait between the tokens of a stream, up to 1h
//	x-demo-tokens: 200          produce so many tokens for each choice, 0 to 1000000
//	x-demo-usage: none          report no usage (full: report it)
package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/utils/clock"
)

// MaxBodyBytes is the largest request body that is taken; a larger one gets 413.
const MaxBodyBytes = 64 << 20

// A Provider answers as OpenAI and Anthropic do. It is an http.Handler for HTTP/1.1, safe for concurrent use.
type Provider struct {
	switches Switches
	sleep    func(context.Context, time.Duration) error
	now      func() time.Time
	history  *history
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

// A route is how one path is answered.
type route struct {
	answer    func(*exchange, []byte) error // nil: the fixed reply
	errorBody func(p *problem, requestID string) string
}

func routeOf(r *http.Request) route {
	switch path := r.URL.Path; {
	case r.Method == http.MethodOptions:
		return route{nil, openAIError}
	case path == "/v1/chat/completions":
		return route{chat, openAIError}
	case path == "/v1/embeddings":
		return route{embeddings, openAIError}
	case path == "/v1/messages":
		return route{messages, anthropicError}
	case strings.HasPrefix(path, "/v1/messages/"):
		return route{nil, anthropicError}
	default:
		return route{nil, openAIError}
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
		err = x.json(fault.status, x.route.errorBody(fault, x.record.ID))
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
