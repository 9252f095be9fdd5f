// Package ratelimit decides, request by request, whether it may pass, what it is charged, and what its client is told.
//
// A Limiter holds the decisions: who asks, what is reserved, what a stream that has ended really cost. The Server and the
// AccessLog put it behind the two gRPC services that Envoy calls. What limits hold is decided in package policy, how they
// are counted in package counter.
package ratelimit

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// SlotExpiry is how long a request holds its concurrency slots without a sign of life: three of them may be late or lost.
const SlotExpiry = 3*descriptor.Heartbeat + 5*time.Second

// A Limiter answers by one Table at a time. It is safe for concurrent use, SetTable included.
type Limiter struct {
	store  counter.Store
	leases *leases
	clock  func() time.Time
	log    *slog.Logger
	ratios *ratios
	stalls stalls
	epoch  atomic.Pointer[epoch]
}

// An Option changes a Limiter from what New makes it.
type Option func(*Limiter)

// WithClock sets the source of time.
func WithClock(now func() time.Time) Option { return func(l *Limiter) { l.clock = now } }

// WithLog sets where the limiter tells, at level debug, what it reserved and settled.
func WithLog(log *slog.Logger) Option { return func(l *Limiter) { l.log = log } }

// WithFormerSecret lets leases be settled that were signed with a secret that another has replaced. Nil is none.
func WithFormerSecret(secret []byte) Option {
	return func(l *Limiter) { l.leases.former = secret }
}

// New makes a Limiter that counts in the store and signs its leases with the secret, which replicas share. Until SetTable
// is called every request is refused with 503.
func New(store counter.Store, secret []byte, options ...Option) *Limiter {
	l := &Limiter{store: store, leases: newLeases(secret), ratios: newRatios(), clock: time.Now, log: slog.New(slog.DiscardHandler)} //nolint:forbidigo // The clock of whoever injects none.
	for _, o := range options {
		o(l)
	}
	return l
}

// SetTable makes the limiter answer by the table from the next request on. Counts stay: they belong to counters, not to
// tables.
func (l *Limiter) SetTable(t *policy.Table) { l.epoch.Store(newEpoch(t, l.store, l.ratios)) }

// A Decision is the answer to a reserve.
type Decision struct {
	Status  int    // 0: the request may pass; else the HTTP status of the denial
	Lease   string // by which the request is settled; empty on a denial, and where nothing is counted
	Headers []Header
	Body    string // of a denial: JSON
	Pool    string // of endpoints that are to serve the request; empty: those without one
}

// A Header is a response header. Names are in the case in which the documents write them.
type Header struct{ Name, Value string }

// Reserve decides whether a request may pass and charges every limit that holds for it, or none. An error means that the
// caller has gone away, or that the store failed; nothing was charged then as far as the store can tell.
func (l *Limiter) Reserve(ctx context.Context, r *descriptor.Reserve) (Decision, error) {
	now := l.clock()
	e := l.epoch.Load()
	if e == nil {
		return refuse(nil, r, now, notReady), nil
	}
	g, ok := e.table.Gateway(r.Gateway)
	if !ok {
		return refuse(nil, r, now, notReady), nil
	}
	h, denial := e.identify(g, r, now)
	if denial != nil {
		return refuse(g, r, now, *denial), nil
	}
	if r.Unmetered {
		report := report{gateway: g, holder: h, resource: r.Resource, now: now}
		return Decision{Headers: report.headers(nil), Pool: h.Pool}, nil
	}
	if denial := checkModel(g, r); denial != nil {
		return refuse(g, r, now, *denial), nil
	}
	p := e.plan(g, h, r.Model, r.Resource)
	if p.set == nil {
		return refuse(g, r, now, tooManyLimits), nil
	}
	// A caller that waited in a hung process may be long gone: it must not be charged.
	if l.stalls.justWokeUp(now) {
		l.stalls.wait(ctx)
		now = l.clock()
	}
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	return l.take(ctx, now, g, h, p, r)
}

// checkModel says why a request cannot be counted by its model.
func checkModel(g *policy.Gateway, r *descriptor.Reserve) *denial {
	switch {
	// A request without a model would escape the limits of its model. Envoy reads no name that is longer than 256 bytes.
	case r.Model == "" && !forms[r.Protocol].unread || len(r.Model) > policy.MaxModelLength:
		return &badModel
	// What a provider makes of these nobody knows: it may take the name for another.
	case strings.TrimSpace(r.Model) != r.Model || strings.ContainsFunc(r.Model, unicode.IsControl):
		return &badModel
	case !g.Serves(r.Model):
		return &unknownModel
	}
	return nil
}

// take charges the limits of the plan and words the answer.
func (l *Limiter) take(ctx context.Context, now time.Time, g *policy.Gateway, h *policy.Holder, p *plan, r *descriptor.Reserve) (Decision, error) {
	t := takens.Get().(*taken) //nolint:forcetypeassert // The pool holds nothing else.
	defer takens.Put(t)
	id := l.leases.next()
	ok, err := p.acquire(ctx, now, id, r, t)
	if err != nil {
		return Decision{}, err
	}
	// Envoy gives up after a while and answers without us. Nobody would ever settle what was taken for it.
	if gone := ctx.Err(); gone != nil {
		if !ok {
			return Decision{}, gone
		}
		if err := l.giveBack(context.WithoutCancel(ctx), now, id, p, t); err != nil {
			l.log.ErrorContext(ctx, "could not give back what nobody waits for", "lease", id.String(), "error", err)
		}
		return Decision{}, gone
	}
	report := report{gateway: g, holder: h, plan: p, counts: t.counts[:len(p.limits)], resource: r.Resource, now: now}
	if !ok {
		return report.deny(p.worst(t), r.Protocol), nil
	}
	d := Decision{Headers: report.headers(nil), Lease: l.leases.seal(p, id, now, r, t), Pool: h.Pool}
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "reserved", "lease", id.String(), "holder", h.Name, "gateway", r.Gateway, "resource", r.Resource,
			"model", brief(r.Model), "inputTokens", t.amounts.input, "outputTokens", t.amounts.output, "limits", len(p.limits))
	}
	return d, nil
}

// giveBack undoes an Acquire.
func (l *Limiter) giveBack(ctx context.Context, now time.Time, id counter.LeaseID, p *plan, t *taken) error {
	s := counter.Settlement{Lease: id, Taken: now, Charges: make([]counter.Charge, len(p.counters))}
	for i, c := range p.counters {
		s.Charges[i] = counter.Charge{Key: c.Key, Window: c.Window, Charged: t.hits[i]}
	}
	return l.store.Settle(ctx, now, s)
}

// brief keeps what a client may have written at a length that a log can bear.
func brief(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
