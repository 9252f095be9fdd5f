package feed_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// A script is a server that says what a test wants, to one client at a time.
type script struct {
	address string
	heard   chan *discoveryv3.DeltaDiscoveryRequest
	// say has, while nothing is being said, the one channel to the client that was heard last: one that has gone away may not
	// have been noticed yet. Nil ends the stream.
	say chan chan *discoveryv3.DeltaDiscoveryResponse
}

func newScript(t *testing.T) *script {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{l.Addr().String(), make(chan *discoveryv3.DeltaDiscoveryRequest, 100), make(chan chan *discoveryv3.DeltaDiscoveryResponse, 1)}
	g := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return s.serve(stream) }))
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return s
}

func (s *script) serve(stream grpc.ServerStream) error {
	own := make(chan *discoveryv3.DeltaDiscoveryResponse)
	go func() {
		for first := true; ; first = false {
			r := &discoveryv3.DeltaDiscoveryRequest{}
			if stream.RecvMsg(r) != nil {
				return
			}
			if first {
				select {
				case <-s.say: // the client before
				default:
				}
				s.say <- own
			}
			s.heard <- r
		}
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case r := <-own:
			if r == nil {
				return nil
			}
			if err := stream.SendMsg(r); err != nil {
				return err
			}
		}
	}
}

// tellClient says something to the client that was heard last.
func (s *script) tellClient(r *discoveryv3.DeltaDiscoveryResponse) {
	client := <-s.say
	client <- r
	if r != nil { // or it is gone, and the next one says itself where it is
		s.say <- client
	}
}

// next is what the client says next.
func (s *script) next(t *testing.T) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	select {
	case r := <-s.heard:
		return r
	case <-time.After(enough):
		t.Fatal("the client says nothing")
		return nil
	}
}

// tell says a consistent set and returns what the client refuses of it, by resource.
func (s *script) tell(t *testing.T, version string, set map[string]proto.Message, gone ...string) map[string]string {
	t.Helper()
	r := &discoveryv3.DeltaDiscoveryResponse{Nonce: version, SystemVersionInfo: version, RemovedResources: gone}
	for name, m := range set {
		content := bytesOf(m)
		r.Resources = append(r.Resources, &discoveryv3.Resource{
			Name: name, Version: feed.VersionOf(content), Resource: &anypb.Any{TypeUrl: feed.TypeURL, Value: content},
		})
	}
	s.tellClient(r)
	ack := s.next(t)
	if ack.GetResponseNonce() != version {
		t.Errorf("the client acknowledges %q, want %q", ack.GetResponseNonce(), version)
	}
	refused := map[string]string{}
	for _, detail := range ack.GetErrorDetail().GetDetails() {
		var list feedv1.Refusals
		if err := detail.UnmarshalTo(&list); err != nil {
			t.Error(err)
		}
		for _, r := range list.GetRefusals() {
			refused[r.GetName()] = r.GetWords()
		}
	}
	return refused
}

const (
	free = "RateLimitTier//free"
	app  = "ApiKeyQuota/team-a/app"
)

func TestWhatCannotBePutInForceIsRefusedByItself(t *testing.T) {
	t.Parallel()
	b, s, path := newBell(), newScript(t), filepath.Join(t.TempDir(), "policy.db")
	var log logbook
	config := feed.ClientConfig{Address: s.address, Node: "service-0", CacheFile: path, Log: log.log()}
	f := follow(t, b, config)
	s.next(t)

	other, bad := quotaOf(goodRule()), quotaOf(&feedv1.Rule{})
	other.GetQuota().Digests, bad.GetQuota().Digests = nil, nil
	newer := tierOf(&feedv1.Rule{Metric: 99})
	const lacks = "it refers to RateLimitTier free, which is not there"

	// A tier that cannot be read: its quotas are known, and nobody knows what holds.
	refused := s.tell(t, "1", map[string]proto.Message{free: newer, app: quotaOf(goodRule()), "ApiKeyQuota/team-a/other": other})
	want := map[string]string{free: "all: number 99 of Metric is not known here", app: lacks, "ApiKeyQuota/team-a/other": lacks}
	compareRefused(t, want, refused)
	f.compareKey(t, policy.Pending, "1-without-3")
	if !log.has("a part of the policy cannot be put in force") {
		t.Error("nothing is logged")
	}

	// It comes in a form that can be read, beside a quota that cannot.
	refused = s.tell(t, "2", map[string]proto.Message{free: tierOf(goodRule()), "ApiKeyQuota/team-a/other": bad, "Unheard//of": newer})
	compareRefused(t, map[string]string{
		"ApiKeyQuota/team-a/other": "all: number 0 of Metric is not known here",
		"Unheard//of":              `"Unheard//of" is not the name of a part: want KIND/NAMESPACE/NAME[/FORM] with a KIND of RateLimitTier, UserQuota, ModelLimit, QuotaGateway, ApiKeyQuota`,
	}, refused)

	// The tier as it was holds while its next form cannot be read, also after a restart; what was refused is asked for again.
	compareRefused(t, map[string]string{free: "field 99 of Policy is not known here"}, s.tell(t, "3", map[string]proto.Message{free: unheard()}, "ApiKeyQuota/team-a/other", "Unheard//of"))
	f.compareKey(t, policy.Active, "3-without-1")
	f.stop()
	f = follow(t, b, config)
	held := s.next(t).GetInitialResourceVersions()
	if diff := cmp.Diff(map[string]string{free: feed.VersionOf(bytesOf(tierOf(goodRule()))), app: feed.VersionOf(bytesOf(quotaOf(goodRule())))}, held); diff != "" {
		t.Errorf("held after a restart (-want +got):\n%s", diff)
	}
	f.compareKey(t, policy.Active, "3")

	// So it is when the connection breaks.
	s.tell(t, "4", map[string]proto.Message{free: unheard()})
	s.tellClient(nil)
	held = s.next(t).GetInitialResourceVersions()
	if v, there := held[free]; v != "" || !there {
		t.Errorf("the refused tier is held in version %q (%t)", v, there)
	}
	compareRefused(t, map[string]string{}, s.tell(t, "5", map[string]proto.Message{free: tierOf()}))
	f.compareKey(t, policy.Active, "5")
}

// A key that was honoured is so no more once what is told of it cannot be read.
func TestAKeyIsRevokedByWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	suspended, broken := quotaOf(goodRule()), quotaOf(goodRule())
	suspended.GetQuota().Suspended = true
	suspended.GetQuota().Expires = &timestamppb.Timestamp{Nanos: -1}
	broken.GetQuota().Expires = &timestamppb.Timestamp{Nanos: -1}
	for name, tc := range map[string]struct {
		told *feedv1.Policy
		want policy.Standing
	}{
		"suspended, with an expiration that is no time": {suspended, policy.Suspended},
		"with an expiration that is no time":            {broken, policy.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := newBell(), newScript(t)
			f := follow(t, b, feed.ClientConfig{Address: s.address, Node: "service-0"})
			s.next(t)
			compareRefused(t, map[string]string{}, s.tell(t, "1", map[string]proto.Message{free: tierOf(goodRule()), app: quotaOf(goodRule())}))
			f.compareKey(t, policy.Active, "1")
			compareRefused(t, map[string]string{app: "expires: it is no time"}, s.tell(t, "2", map[string]proto.Message{app: tc.told}))
			f.compareKey(t, tc.want, "2-without-1")
		})
	}
}

// unheard is a kind of content of a newer version.
func unheard() *feedv1.Policy {
	p := tierOf(goodRule())
	p.ProtoReflect().SetUnknown(newField)
	return p
}

func compareRefused(t *testing.T, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// compareKey looks at the standing of the one key, and at the version of the table.
func (f *follower) compareKey(t *testing.T, want policy.Standing, version string) {
	t.Helper()
	f.wait(t, "a table is in force", func() bool { return f.table() != nil })
	table := f.table()
	c, known := table.Lookup(key)
	if !known || c.Standing(noon) != want {
		t.Errorf("the key is %+v, want %s", c, want)
	}
	if got := table.Version(); got != version {
		t.Errorf("the version is %s, want %s", got, version)
	}
}

// TestTheServerTellsWhatAClientRefused says it as a client would, and as one that knows no details.
func TestTheServerTellsWhatAClientRefused(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	o.Publish(compile(customers(3)), 4)
	c := o.dial(t)
	c.greet(t)
	r := c.next(t)
	c.acknowledge(t, r, &feedv1.Refusals{Refusals: []*feedv1.Refusal{{Name: "ApiKeyQuota/team-1/key-1", Words: "too new"}, {Name: "free/", Words: "lost"}}})
	o.waitFor(t, "raw", 4)
	want := map[policy.Object]string{{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team-1", Name: "key-1"}}: "too new"}
	if diff := cmp.Diff([]feed.Client{{Node: "raw", Mark: 4, Refused: want}}, o.Clients()); diff != "" {
		t.Errorf("clients (-want +got):\n%s", diff)
	}

	in := customers(3)
	in.Quotas = in.Quotas[:2]
	o.Publish(compile(in), 5)
	c.acknowledge(t, c.next(t), &feedv1.Refusals{})
	o.waitFor(t, "raw", 5)
	if diff := cmp.Diff(map[policy.Object]string{{}: "no"}, o.Clients()[0].Refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	o.Publish(compile(customers(3)), 6)
	c.acknowledge(t, c.next(t), nil)
	o.waitFor(t, "raw", 6)
	if got := o.Clients()[0].Refused; len(got) > 0 {
		t.Errorf("still refused: %v", got)
	}
}
