// Package await decides how a test waits for what nobody tells it: it asks until it is so, and fails when that takes too long.
package await

import (
	"testing"
	"time"
)

const askEvery = 20 * time.Millisecond

// True asks every 20 ms until the answer is yes, and fails the test if that is not within a limit. It must be called by the goroutine
// of the test, which ask may end too.
func True(tb testing.TB, limit time.Duration, what string, ask func() bool) {
	tb.Helper()
	timer, ticker := time.NewTimer(limit), time.NewTicker(askEvery)
	defer timer.Stop()
	defer ticker.Stop()
	for !ask() {
		select {
		case <-ticker.C:
		case <-timer.C:
			tb.Fatalf("not within %s: %s", limit, what)
		}
	}
}
