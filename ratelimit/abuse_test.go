package ratelimit_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// guarded are the holders of identity_test, at a gateway that protects itself: with the defaults, or with more fields.
func guarded(fields ...string) string {
	return holders + "gateway: {abuseProtection: {" + strings.Join(fields, ", ") + "}}\n"
}

// failing is a request that is answered with the status by its provider.
func (s *service) failing(t testing.TB, r *descriptor.Reserve, status int64) {
	t.Helper()
	s.end(t, s.pass(t, r), descriptor.Settle{Code: status})
}

// often fails n times, all at one time.
func (s *service) often(t testing.TB, n int, r *descriptor.Reserve, status int64) {
	t.Helper()
	for range n {
		s.failing(t, r, status)
	}
}

// wantBlocked checks that a request is refused because of a block, or that it is not.
func (s *service) wantBlocked(t testing.TB, r *descriptor.Reserve, want bool) {
	t.Helper()
	d := s.ask(t, r)
	if got := strings.Contains(d.Body, "Too many failed attempts"); got != want {
		t.Fatalf("at %s the request got %d %s; blocked: %t, want %t", s.clock.now().Sub(start), d.Status, d.Body, got, want)
	}
}

func from(address string, r *descriptor.Reserve) *descriptor.Reserve {
	return with(r, func(r *descriptor.Reserve) { r.Client = address })
}

func requests(all ...*descriptor.Reserve) []*descriptor.Reserve { return all }

// keyless is a request without a key, which is answered 401.
func keyless(address string) *descriptor.Reserve {
	return from(address, with(chat(""), func(r *descriptor.Reserve) { r.Credentials = nil }))
}

const unlimited = `
tiers: {plan: {limits: {}}}
quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: plan}}}
`

// unlimitedBut lets everything through but those who are blocked.
func unlimitedBut(fields ...string) string {
	return unlimited + "gateway: {abuseProtection: {" + strings.Join(fields, ", ") + "}}\n"
}

func TestOneFailureMoreThanAllowedBlocks(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimitedBut())
	s.often(t, 20, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), false)
	s.failing(t, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), true)
	s.wantBlocked(t, chat("sk-bob"), false)
	s.wantBlocked(t, keyless("192.0.2.1"), false)
	s.clock.advance(30*time.Second - 1)
	s.wantBlocked(t, chat("sk-alice"), true)
	s.clock.advance(1)
	s.wantBlocked(t, chat("sk-alice"), false)
	s.often(t, 20, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), false)
}

func TestFailuresCountWithinTheWindowAlone(t *testing.T) {
	t.Parallel()
	for spread, blocked := range map[time.Duration]bool{30 * time.Second: true, 30*time.Second + time.Millisecond: false} {
		s := serve(t, unlimitedBut())
		s.often(t, 20, chat("sk-alice"), 400)
		s.clock.advance(spread)
		s.failing(t, chat("sk-alice"), 400)
		s.wantBlocked(t, chat("sk-alice"), blocked)
	}
}

func TestWhoIsBlockedIsToldHowLong(t *testing.T) {
	t.Parallel()
	const text = "Too many failed attempts (> 3) resulting in a non-success status code. Please wait %ds and try again."
	s := serve(t, guarded("maxFailures: 3", "blockSeconds: 90"))
	s.often(t, 4, chat("sk-alice"), 404)
	for _, step := range []struct {
		at        time.Duration
		wait      int
		pointless bool
	}{
		{0, 90, true},
		{1, 90, true},
		{30 * time.Second, 60, false},
		{89*time.Second + 1, 1, false},
		{90*time.Second - 1, 1, false},
	} {
		s.clock.set(start.Add(step.at))
		message := fmt.Sprintf(text, step.wait)
		headers := map[string]string{"X-RateLimit-Resource": "chat", "X-Request-Priority": "2", "Retry-After": strconv.Itoa(step.wait)}
		if step.pointless {
			headers["x-should-retry"] = "false"
		}
		for request, want := range map[*descriptor.Reserve]string{
			chat("sk-alice"):            `{"error":{"type":"rate_limit_error","message":"` + message + `","code":"too_many_failed_attempts"}}`,
			anthropic(chat("sk-alice")): `{"type":"error","error":{"type":"rate_limit_error","message":"` + message + `"}}`,
			google(chat("sk-alice")):    `{"error":{"code":429,"message":"` + message + `","status":"RESOURCE_EXHAUSTED"}}`,
		} {
			d := s.refuse(t, request, http.StatusTooManyRequests)
			if diff := cmp.Diff(want, d.Body); diff != "" {
				t.Errorf("%s: body (-want +got):\n%s", request.Protocol, diff)
			}
			if diff := cmp.Diff(headers, headersOf(t, d)); diff != "" {
				t.Errorf("%s: headers (-want +got):\n%s", request.Protocol, diff)
			}
		}
	}
	want := map[string]int64{"Key Requests per Minute": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("what is blocked was charged (-want +got):\n%s", diff)
	}
}

func TestWhichAnswersCount(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fields string
		status int64
		want   bool
	}{
		"a provider's 4xx":                     {"", 422, true},
		"a client that goes away does not":     {"", 0, false},
		"a success does not":                   {"", 200, false},
		"a provider's outage does not":         {"", 503, false},
		"an outage where the gateway says so":  {"countedStatuses: [{min: 500, max: 599}]", 503, true},
		"4xx do not where it says nothing":     {"countedStatuses: [{min: 500, max: 599}]", 404, false},
		"one of several ranges":                {"countedStatuses: [{min: 401, max: 401}, {min: 404, max: 410}]", 410, true},
		"between ranges":                       {"countedStatuses: [{min: 401, max: 401}, {min: 404, max: 410}]", 403, false},
		"everything that is no success, a 599": {"countedStatuses: [{min: 400, max: 599}]", 599, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, unlimitedBut(tc.fields))
			s.often(t, 21, chat("sk-alice"), tc.status)
			s.wantBlocked(t, chat("sk-alice"), tc.want)
		})
	}
}

// Whatever the service itself refuses counts, too, and once.
func TestRefusalsCount(t *testing.T) {
	t.Parallel()
	noModel := func(r *descriptor.Reserve) *descriptor.Reserve {
		return with(r, func(r *descriptor.Reserve) { r.Model = "" })
	}
	unmetered := func(r *descriptor.Reserve) *descriptor.Reserve {
		return with(r, func(r *descriptor.Reserve) { r.Unmetered = true })
	}
	for name, tc := range map[string]struct {
		refused *descriptor.Reserve
		status  int
		blocked []*descriptor.Reserve
		spared  []*descriptor.Reserve
	}{
		"a limit": {
			chat("sk-alice"), 429,
			requests(chat("sk-alice"), from("198.51.100.1", chat("sk-alice")), unmetered(chat("sk-alice"))),
			requests(chat("sk-bob"), keyless("192.0.2.1")),
		},
		"no model": {noModel(chat("sk-bob")), 400, requests(chat("sk-bob")), requests(chat("sk-alice"))},
		"a suspended key": {
			chat("sk-suspended"), 401, requests(chat("sk-suspended")), requests(chat("sk-bob"), keyless("192.0.2.1")),
		},
		"a pending key": {chat("sk-pending"), 401, requests(chat("sk-pending")), requests(keyless("192.0.2.1"))},
		"no key": {
			keyless("192.0.2.1"), 401,
			requests(keyless("192.0.2.1"), chat("sk-nobody"), chat("sk-foreign"), unmetered(keyless("192.0.2.1"))),
			requests(keyless("192.0.2.2"), chat("sk-bob"), from("198.51.100.1", chat("sk-nobody"))),
		},
		"a key that nobody holds": {chat("sk-guess"), 401, requests(chat("sk-other"), keyless("192.0.2.1")), requests(chat("sk-bob"))},
		"a key of elsewhere":      {chat("sk-foreign"), 401, requests(keyless("192.0.2.1")), requests(from("192.0.2.3", chat("sk-foreign")))},
		"two keys": {
			with(chat("sk-bob"), func(r *descriptor.Reserve) { r.Credentials = append(r.Credentials, apiKey("sk-alice")) }), 401,
			requests(keyless("192.0.2.1")), requests(chat("sk-bob")),
		},
		"no key where nothing is counted": {unmetered(keyless("192.0.2.1")), 401, requests(keyless("192.0.2.1")), nil},
		"addresses of one network": {
			keyless("2001:db8:1:2:3::4"), 401, requests(keyless("2001:db8:1:2::ffff")), requests(keyless("2001:db8:1:3::4")),
		},
		"an address as IPv6 has it": {keyless("::ffff:192.0.2.1"), 401, requests(keyless("192.0.2.1")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, guarded())
			if tc.status == 429 {
				for range 10 {
					s.pass(t, tc.refused)
				}
			}
			for range 21 {
				s.refuse(t, tc.refused, tc.status)
			}
			for _, r := range tc.blocked {
				s.wantBlocked(t, r, true)
			}
			for _, r := range tc.spared {
				s.wantBlocked(t, r, false)
			}
		})
	}
}

// On an assigned tier a stranger passes, and its provider's refusals count against its address.
func TestAStrangerIsBlockedByItsAddress(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimited+`gateway: {
  identity: {missingKey: {action: AssignTier, tierRef: {name: plan}}, sources: [{header: Authorization, prefix: "Bearer "}]},
  abuseProtection: {}}`)
	s.often(t, 21, keyless("2001:db8::1"), 404)
	s.wantBlocked(t, keyless("2001:db8::2"), true)
	s.wantBlocked(t, keyless("2001:db8:0:1::1"), false)
	s.wantBlocked(t, from("2001:db8::1", chat("sk-alice")), false)
}

func TestExemptNetworksAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimitedBut("exemptCIDRs: [10.0.0.0/8]"))
	s.often(t, 30, from("10.1.2.3", chat("sk-alice")), 404)
	for range 30 {
		s.refuse(t, keyless("10.1.2.3"), http.StatusUnauthorized)
	}
	s.wantBlocked(t, chat("sk-alice"), false)
	s.wantBlocked(t, keyless("10.1.2.3"), false)
	s.often(t, 21, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), true)
	s.wantBlocked(t, from("10.1.2.3", chat("sk-alice")), false)
}

func TestABlockHoldsAtItsGatewayAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimited+`
gateway: {abuseProtection: {}}
gateways: {team/other: {abuseProtection: {}}, team/open: {}}
`)
	at := func(gateway string, r *descriptor.Reserve) *descriptor.Reserve {
		return with(r, func(r *descriptor.Reserve) { r.Gateway = gateway })
	}
	s.often(t, 21, chat("sk-alice"), 404)
	s.often(t, 21, at("team/open", chat("sk-bob")), 404)
	s.wantBlocked(t, chat("sk-alice"), true)
	s.wantBlocked(t, at("team/other", chat("sk-alice")), false)
	s.wantBlocked(t, at("team/open", chat("sk-alice")), false)
	s.wantBlocked(t, chat("sk-bob"), false)
}

// A gateway that enforces nothing shows whom it would block.
func TestAShadowGatewayBlocksNobody(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimited+"gateway: {enforcement: Shadow, abuseProtection: {}}\n")
	s.often(t, 21, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), false)
	if all, err := s.Blocks(t.Context()); len(all) != 1 || err != nil {
		t.Errorf("blocks %v, error %v, want one", all, err)
	}
	s.apply(t, unlimitedBut())
	s.wantBlocked(t, chat("sk-alice"), true)
}

// What is answered during a block does not count, whenever it was asked.
func TestDuringABlockNothingCounts(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimitedBut())
	var running []ratelimit.Decision
	for range 30 {
		running = append(running, s.pass(t, chat("sk-alice")))
	}
	s.often(t, 21, chat("sk-alice"), 404)
	for _, d := range running {
		s.end(t, d, descriptor.Settle{Code: 404})
	}
	for range 30 {
		s.wantBlocked(t, chat("sk-alice"), true)
	}
	s.clock.advance(30 * time.Second)
	s.often(t, 20, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), false)
}

func TestAnEditOfTheProtectionIsInForceAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimitedBut())
	s.often(t, 10, chat("sk-alice"), 404)
	late := s.pass(t, chat("sk-alice"))
	s.apply(t, unlimitedBut("maxFailures: 10"))
	s.end(t, late, descriptor.Settle{Code: 404})
	s.wantBlocked(t, chat("sk-alice"), true)
	late = s.pass(t, chat("sk-bob"))
	s.apply(t, unlimited)
	s.wantBlocked(t, chat("sk-alice"), false)
	s.end(t, late, descriptor.Settle{Code: 404}) // of a gateway that protects itself no more
	s.apply(t, unlimitedBut())
	s.wantBlocked(t, chat("sk-alice"), true)
}

func TestABlockIsListedAndLifted(t *testing.T) {
	t.Parallel()
	s := serve(t, guarded("maxFailures: 2"))
	blocks := func() []ratelimit.Block {
		t.Helper()
		all, err := s.Blocks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	lift := func(id string) bool {
		t.Helper()
		lifted, err := s.Lift(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return lifted
	}
	if got := blocks(); len(got) != 0 {
		t.Errorf("blocks %v, want none", got)
	}
	s.often(t, 3, chat("sk-bob"), 404)
	s.clock.advance(time.Second)
	for _, r := range []*descriptor.Reserve{keyless("192.0.2.1"), keyless("2001:db8::1"), chat("sk-suspended")} {
		for range 3 {
			s.refuse(t, r, http.StatusUnauthorized)
		}
	}
	got := blocks()
	ids := map[string]bool{}
	for i := range got {
		ids[got[i].ID], got[i].ID = true, ""
	}
	later := start.Add(time.Second)
	want := []ratelimit.Block{
		{Gateway: gatewayName, Kind: "Address", Name: "192.0.2.1", Since: later, Until: later.Add(30 * time.Second), Failures: 3},
		{Gateway: gatewayName, Kind: "Address", Name: "2001:db8::", Since: later, Until: later.Add(30 * time.Second), Failures: 3},
		{Gateway: gatewayName, Kind: "ApiKeyQuota", Name: "team/bob", Since: start, Until: start.Add(30 * time.Second), Failures: 3},
		{Gateway: gatewayName, Kind: "ApiKeyQuota", Name: "team/suspended", Since: later, Until: later.Add(30 * time.Second), Failures: 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if len(ids) != len(want) {
		t.Errorf("%d ids, want one for each block", len(ids))
	}
	bob := blocks()[2].ID
	if !lift(bob) || lift(bob) {
		t.Error("a block can be lifted once, and this one could not")
	}
	s.wantBlocked(t, chat("sk-bob"), false)
	s.wantBlocked(t, keyless("192.0.2.1"), true)
	if got := blocks(); len(got) != 3 {
		t.Errorf("blocks %v, want three", got)
	}
	s.often(t, 2, chat("sk-bob"), 404)
	s.wantBlocked(t, chat("sk-bob"), false)
	if _, err := s.Lift(t.Context(), "team/bob"); err == nil {
		t.Error("a name was taken for an id")
	}
	// A quota that is gone has no name any more; its block stays in force and can be lifted.
	s.apply(t, strings.Replace(guarded("maxFailures: 2"), "  team/suspended: {tierRef: {name: plan}, desiredState: Suspended}\n", "", 1))
	if got := blocks(); len(got) != 3 || got[2].Name != "" || !lift(got[2].ID) {
		t.Errorf("blocks %v, want that of the quota that is gone", got)
	}
}

func TestWithoutAStoreOfFailuresNobodyIsBlocked(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimitedBut(), ratelimit.WithFailures(nil))
	s.often(t, 30, chat("sk-alice"), 404)
	s.wantBlocked(t, chat("sk-alice"), false)
	if all, err := s.Blocks(t.Context()); len(all) > 0 || err != nil {
		t.Errorf("blocks %v, error %v, want none", all, err)
	}
}

// ended is an entry of a request that Envoy answered without asking.
func ended(client string, status uint32) *accesslogv3.HTTPAccessLogEntry {
	return &accesslogv3.HTTPAccessLogEntry{
		CommonProperties: &accesslogv3.AccessLogCommon{
			AccessLogType: accesslogv3.AccessLogType_DownstreamEnd,
			DownstreamRemoteAddress: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: client, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 40000},
			}}},
		},
		Response: &accesslogv3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(status)},
	}
}

// What Envoy refuses by itself counts against the address alone: nobody knows whose key it was.
func TestWhatEnvoyRefusesCountsAgainstTheAddress(t *testing.T) {
	t.Parallel()
	type entry = accesslogv3.HTTPAccessLogEntry
	for name, tc := range map[string]struct {
		entry   *entry
		cluster string
		blocked bool
	}{
		"broken JSON":                  {ended("192.0.2.1", 400), gatewayName, true},
		"no route":                     {ended("192.0.2.1", 404), gatewayName, true},
		"a status that does not count": {ended("192.0.2.1", 503), gatewayName, false},
		"of another gateway":           {ended("192.0.2.1", 400), "team/other", false},
		"of nobody's gateway":          {ended("192.0.2.1", 400), "", false},
		"of an exempt network":         {ended("10.1.1.1", 400), gatewayName, false},
		"without an address":           {ended("", 400), gatewayName, false},
		"a request that goes on": {
			withEntry(ended("192.0.2.1", 400), func(e *entry) {
				e.CommonProperties.AccessLogType = accesslogv3.AccessLogType_DownstreamPeriodic
			}), gatewayName, false,
		},
		"what the service refused, which it knows": {
			withEntry(ended("192.0.2.1", 401), func(e *entry) {
				e.CommonProperties.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
					descriptor.MetadataService: {Fields: map[string]*structpb.Value{descriptor.MetadataDenyStatus: structpb.NewStringValue("401")}},
				}}
			}), gatewayName, false,
		},
		"what is settled": {
			withEntry(ended("192.0.2.1", 404), func(e *entry) {
				e.CommonProperties.Metadata = signOfLife(t, descriptor.MetadataService, "AAAA").CommonProperties.Metadata
			}), gatewayName, false,
		},
		"a backend that cannot be reached": {
			withEntry(ended("192.0.2.1", 404), func(e *entry) {
				e.CommonProperties.ResponseFlags = &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true}
			}), gatewayName, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, guarded("exemptCIDRs: [10.0.0.0/8]"))
			conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
			stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			identifier := &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Cluster: tc.cluster}}
			for range 21 {
				if err := stream.Send(&alsv3.StreamAccessLogsMessage{
					Identifier: identifier,
					LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
						HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*entry{tc.entry}},
					},
				}); err != nil {
					t.Fatal(err)
				}
				identifier = nil // Envoy tells it once.
			}
			if _, err := stream.CloseAndRecv(); err != nil {
				t.Fatal(err)
			}
			s.wantBlocked(t, keyless("192.0.2.1"), tc.blocked)
			s.wantBlocked(t, chat("sk-nobody"), tc.blocked)
			s.wantBlocked(t, chat("sk-bob"), false)
			s.wantBlocked(t, keyless("10.1.1.1"), false)
		})
	}
}

func withEntry(e *accesslogv3.HTTPAccessLogEntry, change func(*accesslogv3.HTTPAccessLogEntry)) *accesslogv3.HTTPAccessLogEntry {
	change(e)
	return e
}

func TestMetricsTellOfBlocks(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimited+`
gateway: {abuseProtection: {maxFailures: 2}}
gateways: {team/other: {abuseProtection: {}}, team/open: {}}
`)
	s.often(t, 3, chat("sk-alice"), 404)
	for range 5 {
		s.wantBlocked(t, chat("sk-alice"), true)
	}
	s.clock.advance(30 * time.Second)
	s.often(t, 3, chat("sk-alice"), 404)
	s.often(t, 1, chat("sk-bob"), 404)
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.Limiter)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if name, ours := strings.CutPrefix(family.GetName(), "tierkeeper_abuse_"); ours {
				got[name+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	want := map[string]float64{
		"blocks team/edge": 1, "blocks_total team/edge": 2, "failures_total team/edge": 7,
		"blocks team/other": 0, "blocks_total team/other": 0, "failures_total team/other": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// Who has one network has more addresses than a report can tell apart, and nobody else would be in it.
func TestAShadowGatewayTellsNetworksApartAndNoAddresses(t *testing.T) {
	t.Parallel()
	s := serve(t, unlimited+"gateway: {enforcement: Shadow, abuseProtection: {maxFailures: 1}}\n")
	for i := range 2000 {
		s.refuse(t, with(chat("wrong"), func(r *descriptor.Reserve) { r.Client = fmt.Sprintf("2001:db8::%x", i) }), http.StatusUnauthorized)
	}
	list, more := s.Shadows()
	if len(list) != 1 || list[0].Key != "client 2001:db8::" || list[0].Count+more != 1998 {
		t.Errorf("%d entries and %d more, the first %+v, want one for the network", len(list), more, list)
	}
}
