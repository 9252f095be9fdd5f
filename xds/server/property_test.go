package server_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// A picky is an Envoy that rejects what it was told to. It knows itself what it has in force, by type and name.
type picky struct {
	*envoyClient
	gateway policy.Name
	has     map[string]map[string]string
	rejects map[string]bool // by version
	named   bool            // it says what it rejects
}

// take answers one response as Envoy does: of listeners and clusters it applies what is good if it names what is not, and
// else none of the response. The server may have hung up meanwhile, which who reads next is told.
func (p *picky) take(r *discoveryv3.DeltaDiscoveryResponse) {
	bad := ""
	for _, resource := range r.GetResources() {
		if p.rejects[resource.GetVersion()] {
			bad += resource.GetName() + ": no, "
		}
	}
	all := p.has[r.GetTypeUrl()]
	if bad == "" || p.named && r.GetTypeUrl() == clusters {
		for _, resource := range r.GetResources() {
			if !p.rejects[resource.GetVersion()] {
				all[resource.GetName()] = resource.GetVersion()
			}
		}
		for _, name := range r.GetRemovedResources() {
			delete(all, name)
		}
	}
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	switch {
	case bad == "":
	case p.named && r.GetTypeUrl() == clusters:
		answer.ErrorDetail = refusal("Error adding/updating cluster(s) " + bad)
	default:
		answer.ErrorDetail = refusal("no")
	}
	_ = p.stream.Send(answer)
}

// drain takes what the server sends, until it has nothing more. It says whether the server hung up.
func (p *picky) drain(t *testing.T) (hungUp bool) {
	t.Helper()
	for {
		_ = p.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.RuntimeType, ResourceNamesSubscribe: []string{"*"}})
		for taken := false; ; taken = true {
			r, err := p.stream.Recv()
			if status.Code(err) == codes.Unavailable {
				return true
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.GetTypeUrl() != resourcev3.RuntimeType {
				p.take(r)
				continue
			}
			_ = p.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.RuntimeType, ResponseNonce: r.GetNonce(), ResourceNamesUnsubscribe: []string{"*"}})
			if !taken {
				return false
			}
			break
		}
	}
}

// come connects, with what the Envoy has.
func (p *picky) come(t *testing.T, c *control) {
	t.Helper()
	p.envoyClient = c.connect(t, p.gateway.String())
	for _, kind := range []string{clusters, listeners, routes} {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind, InitialResourceVersions: maps.Clone(p.has[kind])}
		if kind == routes {
			req.ResourceNamesSubscribe = []string{p.gateway.String()}
		}
		p.send(t, req)
	}
}

// contents are what a gateway can be: clusters come, change and go.
func contents(t *testing.T, name policy.Name) []*envoy.Resources {
	t.Helper()
	slower, fewer, routed := resources(t, name, "/1"), resources(t, name, "/1"), resources(t, name, "/2")
	slower.Clusters[0].ConnectTimeout.Seconds = 7
	slower.Clusters[1].ConnectTimeout.Seconds = 7
	fewer.Clusters = fewer.Clusters[:1]
	fewer.Clusters[0].ConnectTimeout.Seconds = 9
	routed.Clusters[1].ConnectTimeout.Seconds = 8
	return []*envoy.Resources{resources(t, name, "/1"), slower, fewer, routed, {}}
}

// versions are those that the server gives to what is in r, by type and name.
func versions(t *testing.T, r *envoy.Resources) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{clusters: {}, listeners: {}, routes: {}}
	for _, m := range r.Messages() {
		content, err := cachev3.MarshalResource(m)
		if err != nil {
			t.Fatal(err)
		}
		all["type.googleapis.com/"+string(m.ProtoReflect().Descriptor().FullName())][cachev3.GetResourceName(m)] = cachev3.HashResource(content)
	}
	return all
}

// Whatever is published, rejected, mended and cut off: once all is quiet, an Envoy is up to date exactly if it has in force
// what is published, and else something is held against what is published.
func TestTheServerKnowsWhatAnEnvoyHas(t *testing.T) {
	t.Parallel()
	c := start(t)
	gateways := 0
	rapid.Check(t, func(rt *rapid.T) {
		gateways++
		gateway := policy.Name{Namespace: "edge", Name: fmt.Sprintf("g%d", gateways)}
		all := contents(t, gateway)
		p := &picky{
			gateway: gateway, has: map[string]map[string]string{clusters: {}, listeners: {}, routes: {}},
			rejects: map[string]bool{}, named: rapid.Bool().Draw(rt, "named"),
		}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 0, 2).Draw(rt, "rejects of") {
			for _, kind := range []string{clusters, routes} {
				names := versions(t, all[i])[kind]
				for _, name := range slices.Sorted(maps.Keys(names)) {
					p.rejects[names[name]] = rapid.Bool().Draw(rt, name)
				}
			}
		}
		published := all[0]
		publishMarked(t, c, gateway, published, 1)
		p.come(t, c)
		for mark := range uint64(rapid.IntRange(1, 6).Draw(rt, "steps")) { //nolint:gosec // A few.
			switch rapid.SampledFrom([]string{"publish", "publish", "drain", "reconnect"}).Draw(rt, "step") {
			case "publish":
				published = all[rapid.IntRange(0, len(all)-1).Draw(rt, "content")]
				publishMarked(t, c, gateway, published, mark+2)
			case "drain":
				if p.drain(t) {
					p.come(t, c)
				}
			case "reconnect":
				_ = p.stream.CloseSend()
				p.come(t, c)
			}
		}
		for p.drain(t) {
			p.come(t, c)
		}
		const last = 100
		publishMarked(t, c, gateway, published, last)
		got := alone(t, c, gateway)
		upToDate := cmp.Diff(versions(t, published), p.has) == ""
		if (got.Mark == last) != upToDate || (got.Rejected == "") != upToDate {
			rt.Fatalf("the Envoy has everything: %t; the server says %+v", upToDate, got)
		}
		_ = p.stream.CloseSend()
	})
}

// alone waits until what is left of the gateway's streams is the last.
func alone(t *testing.T, c *control, gateway policy.Name) server.Envoy {
	t.Helper()
	deadline := time.After(enough)
	for {
		if all := c.Envoys(gateway); len(all) == 1 {
			return all[0]
		}
		select {
		case <-c.changed:
		case <-deadline:
			t.Fatalf("%d Envoys are connected, want one", len(c.Envoys(gateway)))
		}
	}
}
