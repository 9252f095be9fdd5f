package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A misuse is something that only a mistake, a foreign service or an attacker brings. It is counted, told in the log once a
// minute, and costs nothing: what it asks for is not done.
type misuse string

const (
	noLease        misuse = "no_lease"        // a settle or a sign of life without one
	forgedLease    misuse = "forged_lease"    // signed by nobody who shares our secret
	malformedLease misuse = "malformed_lease" // truncated, or no lease at all
	unknownVersion misuse = "unknown_version" // of a lease that somebody else's release signed
	expiredLease   misuse = "expired_lease"   // older than leaseLifetime
	replayedLease  misuse = "replayed_lease"  // settled a second time
	absurdUsage    misuse = "absurd_usage"    // that a provider reports: it is as good as none
	clockBack      misuse = "clock_back"      // the clock was set back: windows stand still until it has caught up
	unknownGateway misuse = "unknown_gateway" // an Envoy of a gateway that the service's manifests do not have
)

var allMisuses = []misuse{noLease, forgedLease, malformedLease, unknownVersion, expiredLease, replayedLease, absurdUsage, clockBack, unknownGateway}

// A misuseError says what is wrong with a lease. It never holds the lease.
type misuseError struct {
	kind misuse
	text string
}

// Error implements error.
func (e *misuseError) Error() string { return "the lease " + e.text }

// misuses counts them and tells of them. It is safe for concurrent use.
type misuses struct {
	counts *prometheus.CounterVec
	told   sparing[misuse]
}

func newMisuses() *misuses {
	m := &misuses{counts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tierkeeper_bad_input_total",
		Help: "What reached the service and must not: leases that are forged, malformed, expired, of an unknown version or settled before, settles without a lease, usage that no provider can mean, clocks that were set back, and Envoys of gateways that are not known.",
	}, []string{"kind"})}
	for _, kind := range allMisuses {
		m.counts.WithLabelValues(string(kind))
	}
	return m
}

// note counts a misuse, and tells of it if it is time to.
func (l *Limiter) note(ctx context.Context, log *slog.Logger, kind misuse, message string, args ...any) {
	l.misuses.counts.WithLabelValues(string(kind)).Inc()
	if l.misuses.told.tell(kind, l.clock()) {
		log.WarnContext(ctx, message, append(args, "kind", string(kind), "next", "told at most once a minute; tierkeeper_bad_input_total counts all")...)
	}
}

// complain counts and tells what went wrong with a call that nobody waits for.
func (l *Limiter) complain(ctx context.Context, log *slog.Logger, what string, err error) {
	if bad, ok := errors.AsType[*misuseError](err); ok {
		l.note(ctx, log, bad.kind, what, "error", err)
		return
	}
	log.WarnContext(ctx, what, "error", err)
}

// stepBack is how far a clock may go back unnoticed: two readings of it may overtake each other.
const stepBack = time.Second

// A watch notices a clock that is set back. It is safe for concurrent use.
type watch struct{ latest atomic.Int64 }

// see reports by how much the clock went back since the latest reading; 0 if it did not. Where it seems so the clock is read again:
// whoever read it before may have stood still since.
func (w *watch) see(now time.Time, clock func() time.Time) time.Duration {
	n := now.UnixNano()
	latest := w.latest.Load()
	if n < latest-int64(stepBack) {
		n = clock().UnixNano()
	}
	switch {
	case n > latest+int64(stepBack): // It is written once a second, so that readers share it.
		w.latest.CompareAndSwap(latest, n)
	case n < latest-int64(stepBack):
		// From here on it is a clock like any other.
		if w.latest.CompareAndSwap(latest, n) {
			return time.Duration(latest - n)
		}
	}
	return 0
}
