package server

import (
	"maps"

	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
)

// A resending cache sends a resource again to whoever subscribes to it again, as xDS demands: Envoy has thrown it away meanwhile.
// When a listener takes the place of one that was rejected, Envoy asks so for the routes of both.
type resending struct{ cachev3.SnapshotCache }

// CreateDeltaWatch implements cachev3.ConfigWatcher.
func (c resending) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription, out chan cachev3.DeltaResponse) (func(), error) {
	// The first request of a stream subscribes to what the Envoy has, too.
	if names := req.GetResourceNamesSubscribe(); len(names) > 0 && len(req.GetInitialResourceVersions()) == 0 {
		sub = anew{sub, names}
	}
	return c.SnapshotCache.CreateDeltaWatch(req, sub, out)
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
