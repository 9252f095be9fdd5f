package server

import (
	"maps"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// retryAfter is when an Envoy is sent again what it rejects. Why it does can be outside of what it is sent: a port that another
// process had. Each time its gateway lacks it for a moment in what Envoys returns, so this is not often.
const retryAfter = 5 * time.Minute

// A resending cache sends a resource again to whoever subscribes to it again, as xDS demands: Envoy has thrown it away meanwhile.
// When a listener takes the place of one that was rejected, Envoy asks so for the routes of both. What an Envoy rejects is sent
// again after a while: Envoy says in a new stream what it has, and so what it lacks.
type resending struct {
	cachev3.SnapshotCache

	rejects    func(*corev3.Node) bool // whether the Envoy rejects anything of what is published
	retryAfter time.Duration
}

// CreateDeltaWatch implements cachev3.ConfigWatcher.
func (c resending) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription, out chan cachev3.DeltaResponse) (func(), error) {
	// The first request of a stream subscribes to what the Envoy has, too.
	if names := req.GetResourceNamesSubscribe(); len(names) > 0 && len(req.GetInitialResourceVersions()) == 0 {
		sub = anew{sub, names}
	}
	cancel, err := c.SnapshotCache.CreateDeltaWatch(req, sub, out)
	if err != nil || !c.rejects(req.GetNode()) {
		return cancel, err
	}
	stop := c.retry(req, out)
	return func() {
		stop()
		if cancel != nil {
			cancel()
		}
	}, nil
}

// retry ends a stream after a while, unless nothing is rejected any more or stop is called: nothing else makes Envoy try again.
func (c resending) retry(req *cachev3.DeltaRequest, out chan<- cachev3.DeltaResponse) (stop func()) {
	var mu sync.Mutex
	stopped := false // and out is, perhaps, closed
	timer := time.AfterFunc(c.retryAfter, func() {
		again := c.rejects(req.GetNode())
		mu.Lock()
		defer mu.Unlock()
		if again && !stopped {
			select {
			case out <- hangUp{req: req}:
			default: // The stream is busy, and its next request has a retry of its own.
			}
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// hangUp is a response that ends its stream.
type hangUp struct {
	cachev3.DeltaResponse

	req *cachev3.DeltaRequest
}

// GetDeltaRequest implements cachev3.DeltaResponse.
func (h hangUp) GetDeltaRequest() *discoveryv3.DeltaDiscoveryRequest { return h.req }

// GetDeltaDiscoveryResponse implements cachev3.DeltaResponse.
func (hangUp) GetDeltaDiscoveryResponse() (*discoveryv3.DeltaDiscoveryResponse, error) {
	return nil, status.Error(codes.Unavailable, "connect again: what was rejected is sent anew, for what was in its way may be gone")
}

// anew is a subscription of which some names were never sent.
type anew struct {
	cachev3.Subscription

	names []string
}

// ReturnedResources implements cachev3.Subscription.
func (a anew) ReturnedResources() map[string]string {
	returned := maps.Clone(a.Subscription.ReturnedResources())
	for _, name := range a.names {
		delete(returned, name)
	}
	return returned
}
