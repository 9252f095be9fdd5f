// Package ratelimit decides, request by request, whether it may pass, what it is charged, and what its client is told.
//
// A Limiter holds the decisions: who asks, what is reserved, what a stream that has ended really cost. Register puts it behind
// the two gRPC services that Envoy calls. What limits hold is decided in package policy, how they are counted in package
// counter.
package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// SlotExpiry is how long a request holds its concurrency slots without a sign of life: three of them may be late or lost.
const SlotExpiry = 3*descriptor.Heartbeat + 5*time.Second

// A Limiter answers by one Table at a time. It is safe for concurrent use, SetTable included.
type Limiter struct {
	store  counter.Store
	stores func(policy.StoreOut) counter.Store // ways to the same counters
	alone  func() bool
	leases *leases
	clock  func() time.Time
	log    *slog.Logger
	ratios *ratios
	stalls stalls
	epoch  atomic.Pointer[epoch]

	setting sync.Mutex // while the table changes

	failures counter.Failures                      // nil: nobody is blocked
	abuses   *xsync.Map[policy.Name, *abuseCounts] // of gateways

	queues     *queues
	rehearsals *rehearsals
	shadows    *shadows
	denied     *refusals
	misuses    *misuses
	calls      *callMetrics // filled by the server
	activity   *activity
	watch      watch
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

// WithOutages sets how a gateway's requests are counted, by what it says of a store that is out, and what tells whether it is. Without it
// there is one way to count, and the store is never out.
func WithOutages(stores func(policy.StoreOut) counter.Store, out func() bool) Option {
	return func(l *Limiter) { l.stores, l.alone = stores, out }
}

// New makes a Limiter that counts in the store and signs its leases with the secret, which replicas share. Until SetTable
// is called every request is refused with 503.
func New(store counter.Store, secret []byte, options ...Option) *Limiter {
	l := &Limiter{
		store: store, leases: newLeases(secret), ratios: newRatios(), queues: newQueues(), shadows: newShadows(), denied: newRefusals(), misuses: newMisuses(),
		calls: newCallMetrics(), activity: newActivity(),
		abuses: xsync.NewMap[policy.Name, *abuseCounts](),
		clock:  time.Now, //nolint:forbidigo // The clock of whoever injects none.
		log:    slog.New(slog.DiscardHandler),
	}
	l.stores, l.alone = func(policy.StoreOut) counter.Store { return store }, func() bool { return false }
	l.rehearsals = newRehearsals(func(a *actor, at time.Time) { l.shadows.record(a.by, a.most, at) })
	for _, o := range options {
		o(l)
	}
	return l
}

// SetTable makes the limiter answer by the table from the next request on. Counts stay: they belong to counters, not to
// tables. So do those who wait: they go on by what their capacity is now.
func (l *Limiter) SetTable(t *policy.Table) {
	l.setting.Lock() // or queues and epoch could go by different tables
	defer l.setting.Unlock()
	l.queues.update(t.Capacities()) // first, so that no request finds a queue that does not know its capacity
	l.epoch.Store(newEpoch(t, l))
}

// A Decision is the answer to a reserve.
type Decision struct {
	Status  int      // 0: the request may pass; else the HTTP status of the denial
	Lease   string   // by which the request is settled; empty on a denial, and where nothing is counted
	Body    string   // of a denial: JSON
	Pool    string   // of endpoints that are to serve the request; empty: those without one
	headers *headers // nil: there are none
}

// now is the time as leases keep it, or another sub-window than the one that was taken from could be settled.
func (l *Limiter) now() time.Time { return time.UnixMilli(l.clock().UnixMilli()) }

// Reserve decides whether a request may pass and charges every limit that holds for it, or none. An error means that the
// caller has gone away, or that the store failed; nothing was charged then as far as the store can tell.
func (l *Limiter) Reserve(ctx context.Context, r *descriptor.Reserve) (Decision, error) {
	now := l.now()
	if back := l.watch.see(now, l.clock); back > 0 {
		l.note(ctx, l.log, clockBack, "the clock was set back: what was counted since stays, and no window begins anew before it has caught up", "by", back.String())
	}
	e := l.epoch.Load()
	if e == nil {
		return refuse(nil, r, now, notReady), nil
	}
	g, ok := e.table.Gateway(r.Gateway)
	if !ok {
		l.note(ctx, l.log, unknownGateway, "an Envoy asks for a gateway that is not known here: does the service read the same manifests?", "gateway", brief(r.Gateway))
		return refuse(nil, r, now, notReady), nil
	}
	k := e.kind(g, r.Model, r.Resource)
	c, denial := e.identify(k, r, now)
	s := suspect{k.guard, c.credential, r.Client}
	if d, blocked := l.refuseBlocked(ctx, now, &s, g, &c, r); blocked {
		return d, nil
	}
	d, err := l.decide(ctx, now, e, k, &c, denial, r)
	if err == nil && d.Status != 0 {
		l.answered(ctx, s.subject(), d.Status)
	}
	return d, err
}

// decide answers a request of a caller who is not blocked, or of nobody for the reason of the denial.
func (l *Limiter) decide(ctx context.Context, now time.Time, e *epoch, k *kind, c *caller, denial *denial, r *descriptor.Reserve) (Decision, error) {
	g := k.gateway
	if denial != nil {
		return refuse(g, r, now, *denial), nil
	}
	if r.Unmetered {
		report := report{gateway: g, terms: c.terms(), resource: r.Resource, now: now}
		return Decision{headers: report.headers(nil), Pool: c.terms().Pool}, nil
	}
	if denial := checkModel(g, r); denial != nil {
		return refuse(g, r, now, *denial), nil
	}
	p := e.plan(k, c)
	if p.set == nil {
		return refuse(g, r, now, tooManyLimits), nil
	}
	// A caller that waited in a hung process may be long gone: it must not be charged.
	if l.stalls.justWokeUp(now) {
		l.stalls.wait(ctx)
		now = l.now()
	}
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	d, err := l.take(ctx, now, p, r)
	if errors.Is(err, counter.ErrOut) {
		return refuse(g, r, now, storeOut), nil
	}
	return d, err
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

// take charges the limits of the plan, waits for the capacity of the model if there is one and if it must, and words the
// answer.
func (l *Limiter) take(ctx context.Context, now time.Time, p *plan, r *descriptor.Reserve) (Decision, error) {
	t := takens.Get().(*taken) //nolint:forcetypeassert // The pool holds nothing else.
	defer takens.Put(t)
	id := l.leases.next()
	p.ask(r, t)
	ok, err := l.enter(ctx, now, id, p, t)
	if err != nil {
		return Decision{}, err
	}
	if ok {
		l.activity.note(p)
	}
	report := report{gateway: p.gateway, terms: p.terms, plan: p, counts: t.counts[:p.enforced], resource: r.Resource, now: now}
	if ok {
		l.enterShadow(ctx, now, id, p, r, t)
	}
	if ok && p.mustWait(t) {
		var why outcome
		if why, err = l.await(ctx, id, p, r, t); why != released {
			l.giveBack(ctx, now, id, p, t)
			if why == gone {
				return Decision{}, ctx.Err()
			}
			if err != nil {
				return Decision{}, err
			}
			report.now = l.clock()
			if why == timedOut { // A store that fails leaves what there was before the wait.
				_ = l.store.Peek(ctx, report.now, p.counters()[:p.enforced], t.counts[:p.enforced])
			}
			l.denied.add(labelsOfLimit(p.holder, &p.limits[p.capacity.limit]), noted)
			return report.denyCapacity(why, r.Protocol), nil
		}
		report.now = l.clock()
		if l.stalls.justWokeUp(report.now) {
			l.stalls.wait(ctx)
		}
	} else if ok && l.stalls.stoodStillSince(now, l.clock()) {
		l.stalls.wait(ctx)
	}
	// Envoy gives up after a while and answers without us. Nobody would ever settle what was taken for it.
	if gone := cmp.Or(err, ctx.Err()); gone != nil {
		if ok {
			l.giveBack(ctx, now, id, p, t)
		}
		return Decision{}, gone
	}
	if !ok {
		return l.deny(&report, p.refuser(t), r), nil
	}
	d := Decision{headers: report.headers(nil), Lease: l.leases.seal(p, p.subjectFor(r), id, now, r, t), Pool: p.terms.Pool}
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "reserved", "lease", id.String(), "holder", p.holder.Name, "gateway", r.Gateway, "resource", r.Resource,
			"model", brief(r.Model), "inputTokens", t.amounts.input, "outputTokens", t.amounts.output, "limits", len(p.limits))
	}
	return d, nil
}

// deny words the denial by limit number i.
func (l *Limiter) deny(report *report, i int, r *descriptor.Reserve) Decision {
	limit := &report.plan.limits[i]
	l.denied.add(labelsOfLimit(report.plan.holder, limit), noted)
	if limit.Capacity != nil {
		l.queues.metrics.ended(limit.Capacity.Group, refused, 0)
	}
	return report.deny(i, r.Protocol)
}

// enter takes what is enforced, with a slot of the capacity if there is one and nobody waits for it, else without: the rest
// is taken before a request waits.
func (l *Limiter) enter(ctx context.Context, now time.Time, id counter.LeaseID, p *plan, t *taken) (bool, error) {
	c := p.capacity
	if c == nil {
		return p.acquire(ctx, now, id, t)
	}
	if c.queue == nil || !c.queue.busy(ctx) {
		ok, err := p.acquire(ctx, now, id, t)
		if err != nil || c.queue == nil {
			return ok, err
		}
		if t.counts[c.limit].Used >= c.Max {
			c.queue.others.full.Store(true)
		}
		if ok || c.longest == 0 || p.refuser(t) != c.limit {
			return ok, nil
		}
	}
	c.slots(t, 0)
	return p.acquire(ctx, now, id, t)
}

// mustWait reports whether the request has everything but a slot.
func (p *plan) mustWait(t *taken) bool { return p.capacity != nil && t.hits[p.capacity.limit] == 0 }

// await waits for a slot of the capacity. Meanwhile the slots that the request holds of other limits are kept alive: nobody
// else does before Envoy has the lease.
func (l *Limiter) await(ctx context.Context, id counter.LeaseID, p *plan, r *descriptor.Reserve, t *taken) (outcome, error) {
	c := p.capacity
	if c.longest == 0 {
		l.queues.metrics.ended(c.Group, refused, 0)
		return refused, nil // Others wait, so there is no slot.
	}
	w := &waiter{
		lease: id, holder: p.holder.Name, lane: c.lane, arrived: l.clock(), bytes: held(r), slot: c.slot, store: l.stores(p.gateway.StoreOut),
		served: make(chan struct{}),
	}
	slots := p.slots(t)
	why := c.queue.wait(ctx, w, c.Queue, c.longest, func() {
		at := l.clock()
		if err := l.store.Renew(context.WithoutCancel(ctx), at, id, slots, at.Add(SlotExpiry)); err != nil {
			l.log.ErrorContext(ctx, "could not keep the slots of a request that waits", "lease", id.String(), "error", err)
		}
	})
	l.queues.metrics.ended(c.Group, why, l.clock().Sub(w.arrived))
	switch why {
	case released:
	case refused:
		return why, counter.ErrOut
	default:
		return why, nil
	}
	if !w.free {
		c.slots(t, 1)
	}
	// What is left may have changed while it waited.
	return why, l.store.Peek(ctx, l.clock(), p.counters()[:p.enforced], t.counts[:p.enforced])
}

// held is how many bytes of the body Envoy holds while a request waits.
func held(r *descriptor.Reserve) int64 {
	if forms[r.Protocol].unread {
		return unreadBody
	}
	return r.InputBytes
}

// slots lists the slots that the request holds.
func (p *plan) slots(t *taken) []counter.Key {
	var keys []counter.Key
	for i, key := range p.keys[:t.charged] {
		if p.rules[i].window == counter.InUse && t.hits[i] > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// giveBack undoes what was taken. A store that fails keeps it until it expires.
func (l *Limiter) giveBack(ctx context.Context, now time.Time, id counter.LeaseID, p *plan, t *taken) {
	s := counter.Settlement{Lease: id, Taken: now}
	for i, key := range p.keys[:t.charged] {
		if t.hits[i] > 0 {
			s.Charges = append(s.Charges, counter.Charge{Key: key, Window: p.rules[i].window, Charged: t.hits[i]})
		}
	}
	at := l.clock()
	l.rehearsals.each(func(r *rehearsal) { r.leave(id, at) })
	if err := l.store.Settle(context.WithoutCancel(ctx), at, s); err != nil {
		l.log.ErrorContext(ctx, "could not give back what nobody waits for", "lease", id.String(), "error", err)
	}
	l.queues.freed(s.Charges)
}

// brief keeps what a client may have written at a length that a log can bear.
func brief(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
