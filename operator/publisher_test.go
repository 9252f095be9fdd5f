package operator

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// TestAllAreAsFarAsTheLast: what one of several lacks is not in force.
func TestAllAreAsFarAsTheLast(t *testing.T) {
	t.Parallel()
	object := policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: "free"}}
	wantServices := controllers.Services{Connected: 3, Mark: 4, Refused: map[policy.Object]string{object: "b: too new"}}
	got := servicesOf([]feed.Client{{Node: "a", Mark: 7}, {Node: "b", Mark: 4, Refused: map[policy.Object]string{object: "too new"}}, {Node: "c", Mark: 9}})
	if diff := cmp.Diff(wantServices, got); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	wantFleet := controllers.Fleet{Connected: 3, Current: 1, Mark: 4, Rejected: "c: cannot bind"}
	if diff := cmp.Diff(wantFleet, fleetOf([]server.Envoy{{Node: "a", Mark: 7}, {Node: "b", Mark: 4}, {Node: "c", Mark: 7, Rejected: "cannot bind"}}, 7)); diff != "" {
		t.Errorf("Envoys (-want +got):\n%s", diff)
	}
	if none := fleetOf(nil, 7); none != (controllers.Fleet{}) {
		t.Errorf("no Envoys are %+v", none)
	}
	if none := servicesOf(nil); none.Mark != 0 || none.Connected != 0 {
		t.Errorf("no services are %+v", none)
	}
}

func TestGatewaysAreToldByTheirName(t *testing.T) {
	t.Parallel()
	for cluster, want := range map[string]bool{"edge/main": true, "edge": false, "": false, "/main": false, "edge/": false} {
		if name, ok := gatewayOf(cluster); ok != want || ok && name.String() != cluster {
			t.Errorf("%q is gateway %s: %t, want %t", cluster, name, ok, want)
		}
	}
}
