package usage

import (
	"context"
	"time"

	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// Begin and Pass are what Run does, at a time.
func (r *Reporter) Begin(ctx context.Context, now time.Time) error { return r.begin(ctx, now) }
func (r *Reporter) Pass(ctx context.Context, now time.Time)        { r.pass(ctx, now) }

// Known is how many objects the reporter keeps something of.
func (r *Reporter) Known() int { return len(r.entries) }

// MostUsed keeps so many limits.
func MostUsed(limits []ratelimit.LimitUse, most int) []ratelimit.LimitUse {
	return mostUsed(limits, most)
}

// LeastOf is the use that a status tells.
func LeastOf(percent int, most int64) int64 { return leastOf(percent, most) }
