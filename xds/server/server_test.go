package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

var (
	one   = policy.Name{Namespace: "edge", Name: "one"}
	other = policy.Name{Namespace: "edge", Name: "other"}
)

// resources are those of a gateway with one listener and two backends; path is that of its only route.
func resources(t *testing.T, name policy.Name, path string) *envoy.Resources {
	t.Helper()
	backend := func(name string) policy.Backend {
		return policy.Backend{
			Name: name, Endpoints: []policy.Endpoint{{Address: "10.0.0.7", Port: 80}},
			ConnectTimeout: time.Second, IdleTimeout: time.Minute,
		}
	}
	r, err := envoy.Build(&policy.Gateway{
		Name: name, Listeners: []policy.Listener{{Name: "http", Port: 8080}},
		Backends: []policy.Backend{backend("a"), backend("b")},
		Routes:   []policy.Route{{Name: "r", Path: path, Backend: "a", Resource: "chat"}},
		Sources:  []policy.KeySource{{Header: "x-api-key"}}, MaxBodyBytes: 1024,
	}, envoy.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func publish(t *testing.T, c *control, name policy.Name, r *envoy.Resources) {
	t.Helper()
	publishMarked(t, c, name, r, 0)
}

func publishMarked(t *testing.T, c *control, name policy.Name, r *envoy.Resources, mark uint64) {
	t.Helper()
	if err := c.Publish(t.Context(), name, r, mark); err != nil {
		t.Fatal(err)
	}
}

// everything is what an Envoy of the gateway gets when it starts.
func everything(name policy.Name) []update {
	g := name.String()
	return []update{
		{Kind: clusters, Changed: []string{g + "/a", g + "/b"}},
		{Kind: listeners, Changed: []string{g + "/http"}},
		{Kind: routes, Changed: []string{g}},
	}
}

func compare[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAnEnvoyGetsWhatItsFleetIsTold(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	publish(t, c, other, resources(t, other, "/2"))
	compare(t, "updates of one", everything(one), c.connect(t, one.String()).begin(t, one.String()))
	compare(t, "updates of the other", everything(other), c.connect(t, other.String()).begin(t, other.String()))
}

func TestAnEnvoyWaitsForItsGateway(t *testing.T) {
	t.Parallel()
	c := start(t)
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	publish(t, c, other, resources(t, other, "/2"))
	publish(t, c, one, resources(t, one, "/1"))
	compare(t, "first update", everything(one)[0], e.next(t))
}

func TestEqualContentTellsNobody(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	publish(t, c, one, resources(t, one, "/1"))
	compare(t, "updates after equal content", nil, e.pending(t))
}

func TestAChangedRouteIsSentAlone(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	publish(t, c, one, resources(t, one, "/changed"))
	compare(t, "updates", []update{{Kind: routes, Changed: []string{one.String()}}}, e.pending(t))
}

func TestFleetsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	publish(t, c, other, resources(t, other, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String(), other.String())
	publish(t, c, other, resources(t, other, "/changed"))
	compare(t, "updates of one after a change of the other", nil, e.pending(t))
	if err := c.Withdraw(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	compare(t, "updates of one after the other was withdrawn", nil, e.pending(t))
}

func TestContradictionsAreRefusedAndTheLastGoodStays(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(*envoy.Resources)
		want  string
	}{
		"a listener without its routes": {
			func(r *envoy.Resources) { r.Routes = nil }, "mismatched",
		},
		"a listener with the routes of another": {
			func(r *envoy.Resources) { r.Routes[0].Name = "edge/stranger" }, "inconsistent",
		},
		"routes without a listener": {
			func(r *envoy.Resources) { r.Listeners = nil }, "mismatched",
		},
		"a route to a cluster that is not there": {
			func(r *envoy.Resources) { r.Clusters = r.Clusters[1:] }, `cluster "edge/one/a"`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			publish(t, c, one, resources(t, one, "/1"))
			e := c.connect(t, one.String())
			e.begin(t, one.String())

			bad := resources(t, one, "/2")
			tc.spoil(bad)
			err := c.Publish(t.Context(), one, bad, 0)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), one.String()) {
				t.Errorf("Publish: %v, want an error about %s that has %q", err, one, tc.want)
			}
			compare(t, "updates", nil, e.pending(t))
			compare(t, "what a new Envoy gets", everything(one), c.connect(t, one.String()).begin(t, one.String()))
		})
	}
}

func TestARejectionIsReportedAndNotAnsweredWithTheSame(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	for range 3 {
		c.report(t)
	}
	publish(t, c, one, resources(t, one, "/bad"))
	e.reject(t, e.receive(t), "no such thing: [")
	compare(t, "report", server.Report{
		Gateway: one.String(), Node: "envoy-of-edge/one", Kind: "RouteConfiguration", Err: "no such thing: [",
	}, c.report(t))
	compare(t, "answers to the rejection", nil, e.pending(t))

	publish(t, c, one, resources(t, one, "/good"))
	compare(t, "update after the rejection", update{Kind: routes, Changed: []string{one.String()}}, e.next(t))
}

func TestARejectionWithoutAWordIsStillOne(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	e.reject(t, e.receive(t), "")
	if r := c.report(t); r.Err == "" {
		t.Errorf("report %+v, want an error in it", r)
	}
}

func TestEveryAnswerOfAnEnvoyIsReported(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	c.connect(t, one.String()).begin(t, one.String())
	var got []server.Report
	for range 3 {
		got = append(got, c.report(t))
	}
	var want []server.Report
	for _, kind := range []string{"Cluster", "Listener", "RouteConfiguration"} {
		want = append(want, server.Report{Gateway: one.String(), Node: "envoy-of-edge/one", Kind: kind})
	}
	compare(t, "reports", want, got)
}

func TestAWithdrawnGatewayLosesItsListeners(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	if err := c.Withdraw(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	compare(t, "updates", []update{
		{Kind: clusters, Removed: []string{"edge/one/a", "edge/one/b"}},
		{Kind: listeners, Removed: []string{"edge/one/http"}},
		{Kind: routes, Removed: []string{"edge/one"}},
	}, []update{e.next(t), e.next(t), e.next(t)})

	publish(t, c, one, resources(t, one, "/1"))
	compare(t, "updates after it came back", everything(one), []update{e.next(t), e.next(t), e.next(t)})
}

func TestAnEnvoyThatComesBackGetsTheDifference(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	first := c.connect(t, one.String())
	first.subscribe(t, clusters)
	versions := map[string]string{"edge/one/gone": "1"}
	for _, r := range first.receive(t).GetResources() {
		versions[r.GetName()] = r.GetVersion()
	}

	changed := resources(t, one, "/1")
	changed.Clusters[0].ConnectTimeout.Seconds = 7
	publish(t, c, one, changed)
	back := c.connect(t, one.String())
	back.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters, InitialResourceVersions: versions})
	compare(t, "difference", update{Kind: clusters, Changed: []string{"edge/one/a"}, Removed: []string{"edge/one/gone"}}, back.next(t))
}

// Two replicas call the same content by the same name, so that an Envoy can go from one to the other.
func TestAnotherServerKnowsWhatAnEnvoyHas(t *testing.T) {
	t.Parallel()
	versions := map[string]string{}
	before, after := start(t), start(t)
	for _, c := range []*control{before, after} {
		publish(t, c, one, resources(t, one, "/1"))
	}
	e := before.connect(t, one.String())
	e.subscribe(t, listeners)
	for _, r := range e.receive(t).GetResources() {
		versions[r.GetName()] = r.GetVersion()
	}
	moved := after.connect(t, one.String())
	moved.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: listeners, InitialResourceVersions: versions})
	compare(t, "difference", update{Kind: listeners}, moved.next(t))
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Cluster: one.String()}, TypeUrl: clusters})
	if err != nil && !errors.Is(err, io.EOF) { // The answer may have come already.
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "api_type: DELTA_GRPC") {
		t.Errorf("answer to a state-of-the-world stream: %v, want Unimplemented and what to set instead", err)
	}
}

// Whatever order many publishers and many Envoys come in, each Envoy ends with the content published last.
func TestManyPublishersAndEnvoys(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/0"))
	var running sync.WaitGroup
	for i := range 8 {
		r := resources(t, one, fmt.Sprintf("/%d", i))
		running.Go(func() {
			for range 20 {
				if err := c.Publish(t.Context(), one, r, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients := make([]*envoyClient, 4)
	for i := range clients {
		clients[i] = c.connect(t, one.String())
		clients[i].begin(t, one.String())
	}
	running.Wait()
	publish(t, c, one, resources(t, one, "/last"))
	for _, e := range clients {
		last := ""
		for last != "/last" {
			r := e.receive(t)
			last = pathIn(t, r)
			e.accept(t, r)
		}
		compare(t, "updates after the last", nil, e.pending(t))
	}
	for len(c.reports) > 0 {
		if r := c.report(t); r.Err != "" || r.Gateway != one.String() {
			t.Errorf("report %+v", r)
		}
	}
}
