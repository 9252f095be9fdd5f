package usage

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const (
	// DefaultWritesPerSecond is what an API server bears beside all else that it does.
	DefaultWritesPerSecond = 10

	every     = time.Second // a pass
	maxLooks  = 500         // at quotas in a pass
	maxSwept  = 100         // quotas of all that a pass looks at, whether they were used here or not
	settled   = 30 * time.Second
	reread    = 2 * time.Minute  // what objects say: one that was deleted and made again says nothing of its use
	retry     = 10 * time.Second // after the Source has failed
	forgotten = time.Hour        // after which what the Source does not know is taken to be unused
)

// A Reporter keeps the status of objects up to date with what is used. Of all replicas of a service one must run it.
type Reporter struct {
	source Source
	writer Writer
	events Events
	log    *slog.Logger
	bucket *rate.Limiter

	reached *prometheus.CounterVec
	writes  *prometheus.CounterVec
	waiting prometheus.Gauge

	entries map[policy.Object]*entry
	due     line // what to look at again, the earliest first
	pending line // what to write: what is urgent first, then what was not written for the longest time
	swept   []policy.Name
	passes  uint64
	reading *reading  // that goes on; nil: none does
	reads   uint64    // that were begun
	last    time.Time // when the last one was
	told    time.Time // when it was told last that a quota could not be seen
}

// An Option changes a Reporter from what NewReporter makes it.
type Option func(*Reporter)

// WithWritesPerSecond bounds how many objects are written in a second, on average and at once; DefaultWritesPerSecond otherwise.
// It is at least 1.
func WithWritesPerSecond(n int) Option {
	return func(r *Reporter) { r.bucket = rate.NewLimiter(rate.Limit(max(n, 1)), max(n, 1)) }
}

// WithLog sets where the reporter tells what fails.
func WithLog(log *slog.Logger) Option { return func(r *Reporter) { r.log = log } }

// NewReporter makes a Reporter, which does nothing before Run.
func NewReporter(source Source, writer Writer, events Events, options ...Option) *Reporter {
	r := &Reporter{
		source: source, writer: writer, events: events, log: slog.New(slog.DiscardHandler),
		reached: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tierkeeper_quota_threshold_reached_total",
			Help: "How often the use of a limit of an ApiKeyQuota or a UserQuota has reached a threshold, in percent, for the first time in a window.",
		}, []string{"threshold"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tierkeeper_usage_writes_total",
			Help: "Writes of usage to the status of objects, by result: written, gone (the object) or failed.",
		}, []string{"result"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tierkeeper_usage_waiting_objects",
			Help: "Objects whose status is to be written as soon as the rate of writes allows.",
		}),
	}
	WithWritesPerSecond(DefaultWritesPerSecond)(r)
	for _, o := range options {
		o(r)
	}
	return r
}

// Describe implements prometheus.Collector.
func (r *Reporter) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(r, ch) }

// Collect implements prometheus.Collector. It may be called at any time.
func (r *Reporter) Collect(ch chan<- prometheus.Metric) {
	r.reached.Collect(ch)
	r.writes.Collect(ch)
	r.waiting.Collect(ch)
}

// Run keeps objects up to date until ctx ends. It begins with what they say, reads that again every two minutes, and may be called
// again, as by a replica that is elected again, but not while it runs. It returns an error only if it cannot read what objects say
// when it begins.
func (r *Reporter) Run(ctx context.Context) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	begun := false
	for {
		select {
		case <-ctx.Done():
			r.stop()
			return nil
		case h, more := <-r.hearing():
			r.take(ctx, h, more)
		case now := <-ticker.C:
			if !begun {
				if err := r.begin(ctx, now); err != nil {
					return err
				}
				begun = true
			}
			r.readAnew(ctx, now)
			r.pass(ctx, now)
		}
	}
}

// stop waits for a reading that goes on, whose ctx has ended.
func (r *Reporter) stop() {
	for r.reading != nil {
		if _, more := <-r.hearing(); !more {
			r.reading = nil
		}
	}
	r.waiting.Set(0)
}

// take takes notice of what a reading tells, or that it tells no more.
func (r *Reporter) take(ctx context.Context, h heard, more bool) {
	if more {
		r.hear(h)
	} else if err := r.heardAll(); err != nil && ctx.Err() == nil {
		r.log.ErrorContext(ctx, "could not read anew; what was read before still counts", "error", err)
	}
}

// begin forgets everything and reads what objects say.
func (r *Reporter) begin(ctx context.Context, now time.Time) error {
	r.entries, r.swept = map[policy.Object]*entry{}, nil
	r.due = line{before: func(a, b *entry) bool { return a.next.Before(b.next) }, place: func(e *entry) *int { return &e.due }}
	r.pending = line{before: moreUrgent, place: func(e *entry) *int { return &e.pending }}
	r.read(ctx, now)
	for h := range r.hearing() {
		r.hear(h)
	}
	if err := r.heardAll(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func moreUrgent(a, b *entry) bool {
	if a.urgent != b.urgent {
		return a.urgent
	}
	return a.tried.Before(b.tried)
}

// pass looks at what was used, at what is due and at some of all others, and writes as much as may be written. Objects stay as they are while
// the source cannot know better.
func (r *Reporter) pass(ctx context.Context, now time.Time) {
	if r.source.Alone() {
		return
	}
	r.passes++
	for _, name := range r.source.Active() {
		r.schedule(name, now)
	}
	// What other replicas have admitted is known by its counters alone.
	if len(r.swept) == 0 {
		r.swept = r.source.Quotas()
	}
	for _, name := range r.swept[:min(maxSwept, len(r.swept))] {
		_ = r.lookAt(ctx, name, now) // If it failed, there is a next time.
	}
	r.swept = r.swept[min(maxSwept, len(r.swept)):]
	for range maxLooks {
		e := r.due.first()
		if e == nil || e.next.After(now) {
			break
		}
		r.lookAgain(ctx, e, now)
	}
	r.write(ctx, now)
	r.waiting.Set(float64(r.pending.Len()))
}

// schedule has a quota looked at soon that was used.
func (r *Reporter) schedule(name policy.Name, now time.Time) {
	o := policy.Object{Kind: policy.KindQuota, Name: name}
	e := r.entries[o]
	if e == nil {
		e = newEntry(o, Status{}, now)
		r.entries[o] = e
	}
	if e.due == nowhere || e.next.After(now) {
		e.next, e.active = now, true
		r.due.put(e)
	}
}

// lookAgain looks at an entry that is due.
func (r *Reporter) lookAgain(ctx context.Context, e *entry, now time.Time) {
	err := r.lookAt(ctx, e.quota(), now)
	switch {
	case err != nil:
		e.next = now.Add(retry)
	case e.seen == r.passes:
		return
	case e.missed:
		e.lost = true
		r.see(e, &ratelimit.Usage{Object: e.object}, now)
		return
	default:
		e.miss(now)
	}
	r.due.put(e)
}

// lookAt looks at a quota and at its user.
func (r *Reporter) lookAt(ctx context.Context, name policy.Name, now time.Time) error {
	usages, err := r.usages(ctx, name, now)
	for i := range usages {
		u := &usages[i]
		e := r.entries[u.Object]
		switch {
		case e == nil && idle(u.Limits):
			continue
		case e == nil:
			e = newEntry(u.Object, Status{}, now)
			r.entries[u.Object] = e
		case e.seen == r.passes:
			continue
		}
		e.via, e.missed, e.lost = name, false, false
		r.see(e, u, now)
	}
	return err
}

// errAlone is for what was told while the source cannot know better, as it can come to be in the middle of a pass.
var errAlone = errors.New("the counter store is out")

// usages tells of a source that fails once a minute: while a store is out, it fails for very many quotas.
func (r *Reporter) usages(ctx context.Context, name policy.Name, now time.Time) ([]ratelimit.Usage, error) {
	usages, _, err := r.source.Usage(ctx, name)
	if err == nil && r.source.Alone() {
		usages, err = nil, errAlone
	}
	if err != nil && now.Sub(r.told) >= time.Minute {
		r.told = now
		r.log.ErrorContext(ctx, "could not see what a quota uses; it is looked at again", "quota", name.String(), "error", err, "next", "told at most once a minute")
	}
	return usages, err //nolint:wrapcheck // Nobody looks at it.
}

// see takes notice of what an object uses. It returns what it should say, or nil.
func (r *Reporter) see(e *entry, u *ratelimit.Usage, now time.Time) *Status {
	wants := e.look(u, now)
	e.seen = r.passes
	if e.active {
		// Requests that are under way will be settled.
		if after := now.Add(settled); e.next.IsZero() || e.next.After(after) {
			e.next = after
		}
		e.active = false
	}
	if e.next.IsZero() {
		r.due.remove(e)
	} else {
		r.due.put(e)
	}
	if wants != nil {
		r.pending.put(e)
		return wants
	}
	r.pending.remove(e)
	if e.says.Usage == nil && e.next.IsZero() {
		delete(r.entries, e.object)
	}
	return nil
}

// write writes what is pending as long as it may.
func (r *Reporter) write(ctx context.Context, now time.Time) {
	for ctx.Err() == nil {
		e := r.pending.first()
		// One that has failed in this pass stands behind all others.
		if e == nil || e.tried.Equal(now) || r.bucket.TokensAt(now) < 1 {
			return
		}
		e.tried = now
		if s := r.latest(ctx, e, now); s != nil && r.bucket.AllowN(now, 1) {
			r.writeOne(ctx, e, s)
		}
	}
}

// latest is what the object should say now: what was seen when it came into the line may be long ago. It is nil if there is nothing
// to write.
func (r *Reporter) latest(ctx context.Context, e *entry, now time.Time) *Status {
	if e.lost {
		return r.see(e, &ratelimit.Usage{Object: e.object}, now)
	}
	usages, err := r.usages(ctx, e.quota(), now)
	for i := range usages {
		if usages[i].Object == e.object {
			return r.see(e, &usages[i], now)
		}
	}
	if err != nil {
		r.postpone(e)
		return nil
	}
	r.pending.remove(e)
	e.miss(now)
	r.due.put(e)
	return nil
}

// postpone lets all others go first.
func (r *Reporter) postpone(e *entry) {
	e.urgent = false
	r.pending.put(e)
}

func (r *Reporter) writeOne(ctx context.Context, e *entry, s *Status) {
	switch err := r.writer.Write(ctx, e.object, *s); {
	case err == nil:
		r.pending.remove(e)
		r.tell(e.object, e.written(s))
		r.writes.WithLabelValues("written").Inc()
	case errors.Is(err, ErrGone):
		r.forget(e)
		r.writes.WithLabelValues("gone").Inc()
	default:
		r.log.ErrorContext(ctx, "could not write what an object uses; it is tried again", "object", e.object.String(), "error", err)
		r.postpone(e)
		r.writes.WithLabelValues("failed").Inc()
	}
}

func (r *Reporter) tell(o policy.Object, messages []message) {
	for _, m := range messages {
		for _, percent := range m.passed {
			r.reached.WithLabelValues(strconv.Itoa(percent)).Inc()
		}
		r.events.Reached(Reached{Object: o, Limit: m.id, Percent: m.percent, Message: m.text})
	}
}

func (r *Reporter) forget(e *entry) {
	r.due.remove(e)
	r.pending.remove(e)
	delete(r.entries, e.object)
}
