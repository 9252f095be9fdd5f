package server

import (
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
)

// TestARetryThatIsStoppedSendsNothing: the stream may be gone, and its channel closed, by the time that is known what is rejected.
func TestARetryThatIsStoppedSendsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(*testing.T) {
		rejects, out := make(chan bool), make(chan cachev3.DeltaResponse, 1)
		c := resending{rejects: func(*corev3.Node) bool { return <-rejects }, retryAfter: retryAfter}
		stop := c.retry(&cachev3.DeltaRequest{}, out)
		<-time.After(retryAfter)
		synctest.Wait()
		stop()
		close(out)
		rejects <- true
		synctest.Wait() // Who sends to a closed channel panics.
	})
}

// TestARetryEndsTheStreamOfWhoStillRejects, and of nobody else.
func TestARetryEndsTheStreamOfWhoStillRejects(t *testing.T) {
	t.Parallel()
	for _, still := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			out := make(chan cachev3.DeltaResponse, 1)
			c := resending{rejects: func(*corev3.Node) bool { return still }, retryAfter: retryAfter}
			c.retry(&cachev3.DeltaRequest{}, out)
			<-time.After(retryAfter)
			synctest.Wait()
			if sent := len(out) == 1; sent != still {
				t.Errorf("the stream is ended: %t, though it is %t that something is rejected", sent, still)
			}
		})
	}
}
