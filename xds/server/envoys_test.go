package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// await waits until the server says this of a gateway's Envoys. It asks when it is told that something has changed.
func await(t *testing.T, c *control, gateway policy.Name, want []server.Envoy) {
	t.Helper()
	deadline := time.After(enough)
	for {
		diff := cmp.Diff(want, c.Envoys(gateway))
		if diff == "" {
			return
		}
		select {
		case <-c.changed:
		case <-deadline:
			t.Fatalf("Envoys of %s (-want +got):\n%s", gateway, diff)
		}
	}
}

// settled waits until the server has taken all that the client has sent, and says what it knows of the Envoys then.
func (e *envoyClient) settled(t *testing.T, c *control) []server.Envoy {
	t.Helper()
	compare(t, "updates that nobody waits for", nil, e.pending(t))
	return c.Envoys(one)
}

// of is the only Envoy that is connected as the gateway of these tests.
func of(mark uint64, rejected string) []server.Envoy {
	return []server.Envoy{{Node: "envoy-of-edge/one", Mark: mark, Rejected: rejected}}
}

func TestAnEnvoyReachesAMarkWhenItHasAcceptedEverything(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 7)
	e := c.connect(t, one.String())
	for _, subscribe := range []func(){
		func() { e.subscribe(t, clusters) },
		func() { e.subscribe(t, listeners) },
		func() { e.subscribe(t, routes, one.String()) },
	} {
		subscribe()
		r := e.receive(t)
		compare(t, "before an answer", of(0, ""), e.settled(t, c))
		e.accept(t, r)
	}
	await(t, c, one, of(7, ""))
}

func TestEqualContentWithALargerMarkRaisesThatOfWhoeverHasIt(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	publishMarked(t, c, one, resources(t, one, "/1"), 2)
	compare(t, "at once", of(2, ""), c.Envoys(one))
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	compare(t, "after a smaller mark", of(2, ""), c.Envoys(one))

	behind := c.connect(t, one.String())
	behind.subscribe(t, clusters)
	publishMarked(t, c, one, resources(t, one, "/1"), 3)
	await(t, c, one, append(of(0, ""), of(3, "")...))
	compare(t, "updates", nil, e.pending(t))
}

func TestAdvancingRaisesTheMarkOfWhoeverHasEverything(t *testing.T) {
	t.Parallel()
	c := start(t)
	unknown := policy.Name{Namespace: "edge", Name: "unknown"}
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	c.Advance([]policy.Name{unknown, one}, 2)
	compare(t, "at once", of(2, ""), c.Envoys(one))
	c.Advance([]policy.Name{one}, 1)
	compare(t, "after a smaller mark", of(2, ""), c.Envoys(one))
	c.Advance([]policy.Name{unknown}, 3)
	compare(t, "after the mark of another", of(2, ""), c.Envoys(one))

	publishMarked(t, c, one, resources(t, one, "/2"), 4)
	second := e.receive(t)
	c.Advance([]policy.Name{one}, 5)
	compare(t, "before the answer", of(2, ""), c.Envoys(one))
	e.accept(t, second)
	await(t, c, one, of(5, ""))
	compare(t, "updates", nil, e.pending(t))
}

func TestAnAnswerToWhatWasPublishedBeforeDoesNotCount(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))

	publishMarked(t, c, one, resources(t, one, "/2"), 2)
	second := e.receive(t)
	publishMarked(t, c, one, resources(t, one, "/3"), 3)
	e.accept(t, second)
	third := e.receive(t)
	compare(t, "after the second is accepted", of(1, ""), e.settled(t, c))
	e.accept(t, third)
	await(t, c, one, of(3, ""))
}

// What was published while an answer is under way can be what the Envoy had before.
func TestTakingAChangeBackWhileItsAnswerIsUnderWay(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	publishMarked(t, c, one, resources(t, one, "/2"), 2)
	second := e.receive(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 3)
	e.reject(t, second, "no such thing")
	third := e.receive(t)
	compare(t, "before the answer", of(1, ""), e.settled(t, c))
	e.accept(t, third)
	await(t, c, one, of(3, ""))
}

func TestARejectionIsHeldAgainstWhatIsPublishedUntilItIsMended(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	publishMarked(t, c, one, resources(t, one, "/bad"), 2)
	e.reject(t, e.receive(t), "missing ]: [")
	await(t, c, one, of(1, "RouteConfiguration: missing ]: ["))
	publishMarked(t, c, one, resources(t, one, "/bad"), 3)
	compare(t, "after equal content", of(1, "RouteConfiguration: missing ]: ["), c.Envoys(one))

	publishMarked(t, c, one, resources(t, one, "/good"), 4)
	compare(t, "what is not published any more", of(1, ""), c.Envoys(one))
	e.next(t)
	await(t, c, one, of(4, ""))
}

func TestOfSeveralResourcesTheNamedAreRejected(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	e.reject(t, e.receive(t), "Error adding/updating cluster(s) edge/one/b: no such policy, or so")
	e.subscribe(t, listeners)
	e.next(t)
	e.subscribe(t, routes, one.String())
	e.next(t)
	await(t, c, one, of(0, "Cluster: edge/one/b: no such policy, or so"))

	// Only what is mended is sent: the other is in force already.
	mended := resources(t, one, "/1")
	mended.Clusters[1].ConnectTimeout.Seconds = 7
	publishMarked(t, c, one, mended, 2)
	compare(t, "update", update{Kind: clusters, Changed: []string{"edge/one/b"}}, e.next(t))
	await(t, c, one, of(2, ""))
}

func TestEachRejectedResourceHasItsOwnWords(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	e.reject(t, e.receive(t), "Error adding/updating cluster(s) edge/one/b: no such policy, edge/one/a: a port, too large")
	await(t, c, one, of(0, "Cluster: edge/one/a: a port, too large; Cluster: edge/one/b: no such policy"))

	mended := resources(t, one, "/1")
	mended.Clusters[1].ConnectTimeout.Seconds = 7
	publishMarked(t, c, one, mended, 2)
	e.next(t)
	await(t, c, one, of(0, "Cluster: edge/one/a: a port, too large"))
}

// Envoy may have applied none of a response whose rejection names nobody, and would never be sent the good ones again.
func TestWhatWasRejectedWithOthersIsSentAgainOnceTheyAreMended(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	e.reject(t, e.receive(t), "this is no cluster")
	await(t, c, one, of(0, "Cluster: this is no cluster"))

	mended := resources(t, one, "/1")
	mended.Clusters[1].ConnectTimeout.Seconds = 7
	publishMarked(t, c, one, mended, 2)
	r := e.receive(t)
	compare(t, "update", update{Kind: clusters, Changed: []string{"edge/one/b"}}, updateOf(r))
	e.accept(t, r)
	if _, err := e.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v, want an end of the stream", err)
	}
	await(t, c, one, nil)
	back := c.connect(t, one.String())
	back.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters, InitialResourceVersions: versionsIn(r)})
	compare(t, "update of who comes back", update{Kind: clusters, Changed: []string{"edge/one/a"}}, back.next(t))
	back.subscribe(t, listeners)
	back.next(t)
	back.subscribe(t, routes, one.String())
	back.next(t)
	await(t, c, one, of(2, ""))
}

// TestWhatIsRejectedIsSentAgain: what was in its way, such as a port that another process had, may be gone.
func TestWhatIsRejectedIsSentAgain(t *testing.T) {
	t.Parallel()
	c := startRetrying(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	had := e.receive(t)
	e.accept(t, had)
	e.subscribe(t, listeners)
	rejected := e.receive(t)
	e.reject(t, rejected, "Address already in use")
	if _, err := e.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v, want an end of the stream", err)
	}
	back := c.connect(t, one.String())
	back.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters, InitialResourceVersions: versionsIn(had)})
	compare(t, "update of what it had", update{Kind: clusters}, back.next(t))
	back.subscribe(t, listeners)
	compare(t, "update of what it lacks", updateOf(rejected), back.next(t))
	back.subscribe(t, routes, one.String())
	back.next(t)
	await(t, c, one, of(1, ""))
	compare(t, "what else it is sent", nil, back.pending(t))
}

// An Envoy can go away, or be told something else, at the moment in which it would be sent again what it rejects.
func TestWhoRejectsMayLeaveAtAnyTime(t *testing.T) {
	t.Parallel()
	c := startRetrying(t)
	for i := range 100 {
		publishMarked(t, c, one, resources(t, one, fmt.Sprintf("/%d", i)), uint64(i))
		e := c.connect(t, one.String())
		e.node.Id = fmt.Sprintf("envoy-%d", i)
		e.subscribe(t, listeners)
		e.reject(t, e.receive(t), "Address already in use")
		if i%2 == 0 {
			_ = e.stream.CloseSend() // It may be gone already.
		}
	}
	publishMarked(t, c, one, resources(t, one, "/last"), 100)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	compare(t, "what it is sent once it has everything", nil, e.pending(t))
}

func versionsIn(all ...*discoveryv3.DeltaDiscoveryResponse) map[string]string {
	versions := map[string]string{}
	for _, response := range all {
		for _, r := range response.GetResources() {
			versions[r.GetName()] = r.GetVersion()
		}
	}
	return versions
}

// Nothing is sent to an Envoy that comes back and has everything but an empty answer, which it must have to go on.
func TestAnEnvoyThatComesBackWithEverythingIsUpToDate(t *testing.T) {
	t.Parallel()
	before, after := start(t), start(t)
	for _, c := range []*control{before, after} {
		publishMarked(t, c, one, resources(t, one, "/1"), 4)
	}
	e := before.connect(t, one.String())
	var got []*discoveryv3.DeltaDiscoveryResponse
	for _, kind := range []string{clusters, listeners} {
		e.subscribe(t, kind)
		got = append(got, e.receive(t))
	}
	e.subscribe(t, routes, one.String())
	got = append(got, e.receive(t))

	moved := after.connect(t, one.String())
	for _, r := range got[:2] {
		moved.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), InitialResourceVersions: versionsIn(r)})
		moved.next(t)
	}
	await(t, after, one, of(0, ""))
	moved.send(t, &discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: routes, ResourceNamesSubscribe: []string{one.String()}, InitialResourceVersions: versionsIn(got[2]),
	})
	await(t, after, one, of(4, ""))
	publishMarked(t, after, one, resources(t, one, "/2"), 5)
	moved.next(t)
	await(t, after, one, of(5, ""))
}

// Envoy throws the routes of a rejected listener away when another takes its place, and asks for them again.
func TestWhoSubscribesAgainIsSentItAgain(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	e.subscribe(t, routes, one.String())
	r := e.receive(t)
	compare(t, "update", update{Kind: routes, Changed: []string{one.String()}}, updateOf(r))
	publishMarked(t, c, one, resources(t, one, "/1"), 2)
	compare(t, "Envoys before it has answered", of(1, ""), c.Envoys(one))
	e.accept(t, r)
	await(t, c, one, of(2, ""))
	compare(t, "what else is sent", []update(nil), e.pending(t))
}

func TestWhatAnEnvoyHasBesideKeepsItFromBeingUpToDate(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	await(t, c, one, of(1, ""))
	if err := c.Withdraw(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	publishMarked(t, c, one, &envoy.Resources{}, 2)
	var got []*discoveryv3.DeltaDiscoveryResponse
	for range 3 {
		got = append(got, e.receive(t))
	}
	compare(t, "before the removal is accepted", of(1, ""), e.settled(t, c))
	for _, r := range got {
		e.accept(t, r)
	}
	await(t, c, one, of(2, ""))
}

func TestOneEnvoyOfTwoRejects(t *testing.T) {
	t.Parallel()
	c := start(t)
	publishMarked(t, c, one, resources(t, one, "/1"), 1)
	publishMarked(t, c, other, resources(t, other, "/1"), 1)
	good, bad, stranger := c.connect(t, one.String()), c.connect(t, one.String()), c.connect(t, other.String())
	good.node.Id, bad.node.Id = "a-good", "b-bad"
	for _, e := range []*envoyClient{good, bad} {
		e.begin(t, one.String())
	}
	stranger.begin(t, other.String())
	await(t, c, one, []server.Envoy{{Node: "a-good", Mark: 1}, {Node: "b-bad", Mark: 1}})
	publishMarked(t, c, one, resources(t, one, "/2"), 2)
	good.next(t)
	bad.reject(t, bad.receive(t), "too old for this")
	await(t, c, one, []server.Envoy{
		{Node: "a-good", Mark: 2}, {Node: "b-bad", Mark: 1, Rejected: "RouteConfiguration: too old for this"},
	})
	await(t, c, other, []server.Envoy{{Node: "envoy-of-edge/other", Mark: 1}})

	if err := bad.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	await(t, c, one, []server.Envoy{{Node: "a-good", Mark: 2}})
}

func TestAnEnvoyOfNoGatewayIsListed(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	for _, as := range []string{"edge/one", "edge/nobody", "nonsense"} {
		c.connect(t, as).subscribe(t, clusters)
	}
	told := map[policy.Name]bool{}
	for len(told) < 3 {
		select {
		case name := <-c.changed:
			told[name] = true
		case <-time.After(enough):
			t.Fatalf("changes were told of %v, want three", told)
		}
	}
	nobody := policy.Name{Namespace: "edge", Name: "nobody"}
	compare(t, "changes told", map[policy.Name]bool{one: true, nobody: true, {}: true}, told)
	compare(t, "gateways", []string{"edge/nobody", "edge/one", "nonsense"}, c.Gateways())
	compare(t, "its Envoys", []server.Envoy{{Node: "envoy-of-edge/nobody"}}, c.Envoys(nobody))
}

func TestAStreamMustSayWhoItIsAndStayThat(t *testing.T) {
	t.Parallel()
	c := start(t)
	nobody, turncoat := c.connect(t, one.String()), c.connect(t, one.String())
	nobody.node = nil
	nobody.subscribe(t, clusters)
	turncoat.subscribe(t, clusters)
	turncoat.node = c.connect(t, other.String()).node
	turncoat.subscribe(t, listeners)
	for _, e := range []*envoyClient{nobody, turncoat} {
		if _, err := e.stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "node.cluster") {
			t.Errorf("got %v, want InvalidArgument and what to give", err)
		}
	}
}

func TestLongNamesAreRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	fits, cluster, id := c.connect(t, strings.Repeat("a", 512)), c.connect(t, strings.Repeat("a", 513)), c.connect(t, one.String())
	fits.node.Id, cluster.node.Id, id.node.Id = strings.Repeat("i", 512), "short", strings.Repeat("i", 513)
	for _, e := range []*envoyClient{cluster, id} {
		e.subscribe(t, clusters)
		if _, err := e.stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "longer than 512 bytes") {
			t.Errorf("got %v, want InvalidArgument and how long a name may be", err)
		}
	}
	fits.subscribe(t, clusters)
	connected(t, c, 1)
}

func TestWordsAreBounded(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.subscribe(t, clusters)
	e.reject(t, e.receive(t), strings.Repeat("ü", 4000))
	if r := c.report(t); len(r.Err) > 1024 || !strings.HasSuffix(r.Err, "ü…") {
		t.Errorf("the report has %d bytes and ends in %q", len(r.Err), r.Err[len(r.Err)-8:])
	}
	for _, got := range c.Envoys(one) {
		if len(got.Rejected) > 1024 || !strings.HasPrefix(got.Rejected, "Cluster: üü") {
			t.Errorf("Rejected has %d bytes: %.20s", len(got.Rejected), got.Rejected)
		}
	}
}
