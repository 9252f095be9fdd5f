package feed_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/xds/feed"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// A raw client says what a test wants.
type raw struct{ stream grpc.ClientStream }

func (o *operator) dial(t *testing.T) *raw {
	t.Helper()
	conn, err := grpc.NewClient(o.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, feed.Method)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{stream}
}

func (c *raw) send(t *testing.T, r *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	if err := c.stream.SendMsg(r); err != nil {
		t.Fatal(err)
	}
}

func (c *raw) greet(t *testing.T) {
	t.Helper()
	c.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: feed.TypeURL, Node: &corev3.Node{Id: "raw"}, ResourceNamesSubscribe: []string{"*"}})
}

func (c *raw) next(t *testing.T) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	r := &discoveryv3.DeltaDiscoveryResponse{}
	if err := c.stream.RecvMsg(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *raw) acknowledge(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse, refusals *feedv1.Refusals) {
	t.Helper()
	ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: feed.TypeURL, ResponseNonce: r.GetNonce()}
	if refusals != nil {
		detail, err := anypb.New(refusals)
		if err != nil {
			t.Fatal(err)
		}
		ack.ErrorDetail = &rpcstatus.Status{Message: "no", Details: []*anypb.Any{detail}}
	}
	c.send(t, ack)
}

func TestWhatAClientHoldsInAnotherVersionIsTold(t *testing.T) {
	t.Parallel()
	o := start(t, newBell())
	o.Publish(compile(customers(0)), 1)
	first := o.dial(t)
	first.greet(t)
	for _, r := range first.next(t).GetResources() {
		for _, v := range []string{r.GetVersion(), "", "v1", strings.Repeat("0", len(r.GetVersion())), r.GetVersion() + "00"} {
			c := o.dial(t)
			c.send(t, &discoveryv3.DeltaDiscoveryRequest{
				TypeUrl: feed.TypeURL, Node: &corev3.Node{Id: "raw"}, ResourceNamesSubscribe: []string{"*"},
				InitialResourceVersions: map[string]string{r.GetName(): v},
			})
			told := false
			for _, other := range c.next(t).GetResources() {
				told = told || other.GetName() == r.GetName()
			}
			if told == (v == r.GetVersion()) {
				t.Errorf("%s is held in version %q, and told: %t", r.GetName(), v, told)
			}
		}
	}
}

func TestTheServerRefusesWhoDoesNotSayWhoItIs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		greeting *discoveryv3.DeltaDiscoveryRequest
		want     string
	}{
		"no name":      {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: feed.TypeURL, ResourceNamesSubscribe: []string{"*"}}, "node.id is empty: it must name the client"},
		"another type": {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "x"}, `type_url is "x", and only type.googleapis.com/tierkeeper.feed.v1.Policy is served here`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, newBell()).dial(t)
			c.send(t, tc.greeting)
			err := c.stream.RecvMsg(&discoveryv3.DeltaDiscoveryResponse{})
			if s := status.Convert(err); s.Code() != codes.InvalidArgument || s.Message() != tc.want {
				t.Errorf("got %v, want InvalidArgument: %s", err, tc.want)
			}
		})
	}
}

// TestWhatIsPublishedMeanwhileComesAtOnce publishes many Tables to a client that has not acknowledged the first.
func TestWhatIsPublishedMeanwhileComesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	in := customers(10)
	o.Publish(compile(in), 1)
	c := o.dial(t)
	c.greet(t)
	first := c.next(t)
	mark := uint64(1)
	for n := range 10 {
		in.Tiers[0].Spec.Limits = limit(int64(100 + n))
		in.Quotas = in.Quotas[:9-n%2]
		mark++
		o.Publish(compile(in), mark)
		in.Quotas = in.Quotas[:10]
	}
	c.acknowledge(t, &discoveryv3.DeltaDiscoveryResponse{Nonce: "stale"}, nil) // means nothing
	c.acknowledge(t, first, nil)
	second := c.next(t)
	o.waitFor(t, "raw", 1)
	var set []string
	for _, r := range second.GetResources() {
		set = append(set, r.GetName())
	}
	want := [][]string{{"RateLimitTier//tier-0"}, {"ApiKeyQuota/team-8/key-8", "ApiKeyQuota/team-9/key-9"}}
	if diff := cmp.Diff(want, [][]string{set, sorted(second.GetRemovedResources())}); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	c.acknowledge(t, second, nil)
	o.waitFor(t, "raw", mark)
	o.Publish(compile(in), mark+1)
	back := c.next(t)
	if n := len(back.GetResources()); n != 2 || len(back.GetRemovedResources()) > 0 {
		t.Errorf("%d resources came back, want 2", n)
	}
}

// TestTheLogStaysAsLongAsWhatItIsAbout publishes many Tables while a client reads nothing.
func TestTheLogStaysAsLongAsWhatItIsAbout(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	in := customers(10)
	o.Publish(compile(in), 1)
	c := o.dial(t)
	c.greet(t)
	first := c.next(t)
	for n := range uint64(2000) {
		in.Tiers[0].Spec.Limits = limit(int64(100 + n))
		o.Publish(compile(in), 2+n)
	}
	if n := feed.LogLength(o.Server); n > 1100 {
		t.Errorf("the log has %d changes", n)
	}
	c.acknowledge(t, first, nil)
	second := c.next(t)
	if n := len(second.GetResources()); n != 1 {
		t.Errorf("%d resources were told, want 1", n)
	}
	c.acknowledge(t, second, nil)
	o.waitFor(t, "raw", 2001)
	o.Publish(compile(customers(9)), 3000)
	c.next(t)
	if n := feed.LogLength(o.Server); n > 10 {
		t.Errorf("everybody has read the log, and it has %d changes", n)
	}
}

// TestWhoReadsTooSlowlyMustConnectAgain lets keys come and go while a client reads nothing.
func TestWhoReadsTooSlowlyMustConnectAgain(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	in := customers(10)
	o.Publish(compile(in), 1)
	c := o.dial(t)
	c.greet(t)
	c.next(t)
	for n := range uint64(6) {
		for i := range in.Quotas {
			in.Quotas[i].Name = fmt.Sprint("key-", n, "-", i)
		}
		more := customers(300)
		for i := range more.Quotas {
			more.Quotas[i].Name = fmt.Sprint("key-", n, "-", i)
		}
		o.Publish(compile(more), 10+2*n)
		o.Publish(compile(in), 11+2*n)
	}
	if err := c.stream.RecvMsg(&discoveryv3.DeltaDiscoveryResponse{}); status.Code(err) != codes.Aborted {
		t.Errorf("got %v, want Aborted", err)
	}
	f := follow(t, b, o.config("service-0", ""))
	o.waitFor(t, "service-0", 21)
	f.holds(t, compile(in))
}
