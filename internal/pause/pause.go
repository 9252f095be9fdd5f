// Package pause decides how a wait ends that somebody may cut short.
package pause

import (
	"context"
	"time"
)

// For waits so long, and reports false if ctx ends first.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
