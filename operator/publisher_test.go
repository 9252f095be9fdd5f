package operator

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
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

// A cluster is two gateways, of which Envoys are told one change after another.
type cluster struct {
	in       policy.Input
	key      string // at the provider
	unread   bool
	compiler policy.Compiler
	mark     uint64
	told     chan struct{}
	*publisher
}

var first, second = policy.Name{Namespace: "edge", Name: "first"}, policy.Name{Namespace: "edge", Name: "second"}

func newCluster() *cluster {
	c := &cluster{key: "sk-1", told: make(chan struct{}, 1), publisher: newPublisher(envoy.Settings{}, slog.New(slog.DiscardHandler))}
	c.in.Gateways = []*v1alpha1.QuotaGateway{new(gateway(first.Name)), new(gateway(second.Name))}
	c.in.Secrets = map[policy.Name]policy.Secret{{Namespace: "edge", Name: "provider"}: policy.ReadSecret("", map[string][]byte{"key": []byte("sk")})}
	c.OnAcknowledged(func() {
		select {
		case c.told <- struct{}{}:
		default: // Whoever waits looks anyway.
		}
	})
	return c
}

func (c *cluster) publish(t *testing.T) error {
	t.Helper()
	c.mark++
	table, _ := c.compiler.Compile(c.in)
	return c.Publish(t.Context(), controllers.Publication{Table: table, Gateways: []policy.Name{first, second}, Mark: c.mark, Content: controllers.Content{
		Unread: func(policy.Name) bool { return c.unread },
		Usable: func(policy.SecretValue) bool { return !c.unread },
		Value:  func(policy.SecretValue) []byte { return []byte(c.key) },
	}})
}

// await waits until the Envoy of the second gateway has come to the mark.
func (c *cluster) await(t *testing.T, mark uint64) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for c.Acknowledged().Gateways[second].Mark != mark {
		select {
		case <-c.told:
		case <-deadline:
			t.Fatalf("it says %+v of the gateway, want mark %d", c.Acknowledged().Gateways[second], mark)
		}
	}
}

// connect is an Envoy of the second gateway that accepts everything. What it is told of its credential comes over the channel.
func (c *cluster) connect(t *testing.T) (credentials <-chan string) {
	t.Helper()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(dial(t, c.publisher)).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev3.Node{Id: "envoy", Cluster: second.String()}
	for kind, name := range map[string]string{
		resourcev3.ClusterType: "*", resourcev3.ListenerType: "*", resourcev3.RouteType: second.String(), resourcev3.SecretType: "*",
	} {
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: kind, ResourceNamesSubscribe: []string{name}}); err != nil {
			t.Fatal(err)
		}
		node = nil
	}
	told := make(chan string, 16)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			for _, resource := range r.GetResources() {
				if strings.HasPrefix(resource.GetName(), "credential/") {
					told <- string(resource.GetResource().GetValue())
				}
			}
			_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
		}
	}()
	return told
}

func TestTheEnvoysOfAnUnchangedGatewayAreAsFarAsTheTable(t *testing.T) {
	t.Parallel()
	c := newCluster()
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	c.connect(t)
	c.await(t, 1)
	c.in.Gateways[0].Spec.Requests, c.in.Gateways[0].Generation = &v1alpha1.Requests{MaxBodyBytes: 2048}, 2
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	if got := c.Acknowledged().Gateways[second]; got != (controllers.Fleet{Connected: 1, Current: 1, Mark: 2}) {
		t.Errorf("after a change of another gateway it says %+v", got)
	}
}

func TestAnotherSecretIsToldThoughTheGatewaySaysTheSame(t *testing.T) {
	t.Parallel()
	c := newCluster()
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	credentials := c.connect(t)
	c.await(t, 1)
	c.unread, c.key = true, "sk-2"
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	if got := c.Acknowledged().Gateways[second]; got.Mark != 1 || got.Untold == "" {
		t.Errorf("while the Secret is unread it says %+v", got)
	}
	c.unread = false
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	c.await(t, 3)
	for _, want := range []string{"sk-1", "sk-2"} {
		if got := <-credentials; !strings.Contains(got, want) {
			t.Errorf("the Envoy was told %q, want %s in it", got, want)
		}
	}
}

func TestAPublicationThatFailedIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster()
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	c.connect(t)
	c.await(t, 1)
	c.in.Gateways[1].Generation, c.settings.Upstream = 2, &policy.Endpoint{} // without an address
	for range 2 {
		if err := c.publish(t); err == nil {
			t.Error("a gateway that cannot be built was published")
		}
	}
	if got := c.Acknowledged().Gateways[second]; got.Mark != 1 || got.Untold == "" {
		t.Errorf("while the gateway cannot be built it says %+v", got)
	}
	c.settings = envoy.Settings{}
	if err := c.publish(t); err != nil {
		t.Fatal(err)
	}
	c.await(t, 4)
}

// TestOtherAuthoritiesOfTheMachineAreTold: they are no part of the gateway.
func TestOtherAuthoritiesOfTheMachineAreTold(t *testing.T) {
	t.Parallel()
	none := func(policy.SecretValue) []byte { return nil }
	before := newTold(&policy.Gateway{}, &envoy.Settings{Secrets: none, SystemRoots: []byte("one")})
	now := before
	if now.roots = []byte("other"); now.same(before) {
		t.Error("a gateway is told as before, though other authorities are trusted")
	}
}
