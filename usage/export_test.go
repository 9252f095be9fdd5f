package usage

import (
	"context"
	"time"

	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// Begin and Pass are what Run does, at a time. A reading that Pass begins has ended when the pass begins.
func (r *Reporter) Begin(ctx context.Context, now time.Time) error { return r.begin(ctx, now) }

func (r *Reporter) Pass(ctx context.Context, now time.Time) {
	r.readAnew(ctx, now)
	for r.reading != nil {
		h, more := <-r.hearing()
		r.take(ctx, h, more)
	}
	r.pass(ctx, now)
}

// Known is how many objects the reporter keeps something of.
func (r *Reporter) Known() int { return len(r.entries) }

// MostUsed keeps so many limits.
func MostUsed(limits []ratelimit.LimitUse, most int) []ratelimit.LimitUse {
	return mostUsed(limits, most)
}

// LeastOf is the use that a status tells.
func LeastOf(percent int, most int64) int64 { return leastOf(percent, most) }
