package ratelimit_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

func TestAModelThatAGatewayDoesNotServeIsNotFound(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Hour 1"))+`
models: {gpt: {models: ["gpt-5*"]}}
gateway: {unknownModels: {action: Deny}}
`)
	asks := func(model string, p descriptor.Protocol) *descriptor.Reserve {
		return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model, r.Protocol = model, p })
	}
	const (
		openAI = `{"error":{"type":"invalid_request_error","message":"This gateway does not serve the model that the request names. Check its spelling.","code":"model_not_found"}}`
		claude = `{"type":"error","error":{"type":"not_found_error","message":"This gateway does not serve the model that the request names. Check its spelling."}}`
		google = `{"error":{"code":404,"message":"This gateway does not serve the model that the request names. Check its spelling.","status":"NOT_FOUND"}}`
	)
	for _, p := range descriptor.Protocols {
		want := openAI
		if p == descriptor.ProtocolAnthropic {
			want = claude
		}
		if p == descriptor.ProtocolGemini {
			want = google
		}
		d := s.refuse(t, asks("gpt-4", p), http.StatusNotFound)
		if diff := cmp.Diff(want, d.Body); diff != "" {
			t.Errorf("%s: body (-want +got):\n%s", p, diff)
		}
		if diff := cmp.Diff(map[string]string{"X-RateLimit-Resource": "chat"}, headersOf(t, d)); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", p, diff)
		}
	}
	// Who may not ask is not told which models there are, and what is refused costs nothing.
	s.refuse(t, with(asks("gpt-4", descriptor.ProtocolOpenAIChat), func(r *descriptor.Reserve) { r.Credentials = nil }), http.StatusUnauthorized)
	s.refuse(t, asks("GPT-5", descriptor.ProtocolOpenAIChat), http.StatusNotFound)
	s.pass(t, asks("gpt-5-mini", descriptor.ProtocolOpenAIChat))
	s.refuse(t, asks("gpt-5-mini", descriptor.ProtocolOpenAIChat), http.StatusTooManyRequests)
}

// A route whose requests are not looked into and that says no model has none that could be unknown.
func TestARequestWithoutAModelIsOfNoUnknownOne(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{}")+"\nmodels: {gpt: {models: [gpt-5]}}\ngateway: {unknownModels: {action: Deny}}\n")
	s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model, r.Protocol = "", descriptor.ProtocolOpaque }))
	s.refuse(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model = "" }), http.StatusBadRequest)
}

func TestAnUnmeteredRequestNeedsAKeyAndIsCountedNowhere(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {priority: High, limits: {rates: [{metric: Requests, per: Hour, max: 1}], concurrency: {max: 1}}}}
quotas: {team/alice: {tierRef: {name: plan}}, team/held: {tierRef: {name: plan}, desiredState: Suspended}}
models: {gpt: {models: [gpt-5]}}
gateway: {unknownModels: {action: Deny}}
`)
	unmetered := func(key string) *descriptor.Reserve {
		return &descriptor.Reserve{
			Credentials: []descriptor.Credential{bearer("Bearer " + key)}, Client: "192.0.2.1", Gateway: gatewayName,
			Protocol: descriptor.ProtocolOpaque, Unmetered: true, Model: "whatever\x00", InputBytes: 1 << 40, MaxOutput: 1 << 40,
		}
	}
	for range 3 {
		d := s.pass(t, unmetered("sk-alice"))
		if diff := cmp.Diff(map[string]string{"X-Request-Priority": "3"}, headersOf(t, d)); diff != "" || d.Lease != "" {
			t.Errorf("it has the lease %q, headers (-want +got):\n%s", d.Lease, diff)
		}
	}
	for _, key := range []string{"", "sk-nobody", "sk-held"} {
		s.refuse(t, unmetered(key), http.StatusUnauthorized)
	}
	want := map[string]int64{"Key Requests per Hour": 0, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	s.pass(t, chat("sk-alice"))
	s.pass(t, unmetered("sk-alice")) // also where nothing is left
}

// Envoy settles what has a lease, and keeps what an answer says.
func TestAnUnmeteredRequestHasNothingToSettle(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Hour 1")))
	conn := listen(t, s.Limiter, everything(&lockedBuffer{}))
	d := reserving("sk-alice", 40)
	d.Entries = append(d.Entries, entry(descriptor.KeyUnmetered, "true"))
	if got := call(t, conn, d); got.GetDynamicMetadata() != nil {
		t.Errorf("the answer keeps %v with the request, want nothing", got.GetDynamicMetadata())
	}
}

// Strangers who are on a tier are known by their address, so they may use what is not metered as anybody may.
func TestStrangersOnATierMayUseWhatIsNotMetered(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Hour, max: 1}]}}}
gateway: {identity: {missingKey: {action: AssignTier, tierRef: {name: plan}}}}
`)
	stranger := func(unmetered bool) *descriptor.Reserve {
		return with(chat(""), func(r *descriptor.Reserve) { r.Credentials, r.Unmetered = nil, unmetered })
	}
	s.pass(t, stranger(true))
	s.pass(t, stranger(false))
	s.refuse(t, stranger(false), http.StatusTooManyRequests)
	s.pass(t, stranger(true))
	s.refuse(t, with(stranger(true), func(r *descriptor.Reserve) { r.Client = "nowhere" }), http.StatusUnauthorized)
	s.refuse(t, with(chat("sk-nobody"), func(r *descriptor.Reserve) { r.Unmetered = true }), http.StatusUnauthorized)
}

// What a provider makes of such names nobody knows, so they are no names of models.
func TestAModelsNameHoldsNothingInvisible(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{}"))
	for _, model := range []string{
		" gpt-5", "gpt-5 ", "gpt-5\n", "\tgpt-5", "gpt\x005", "gpt-5\x00", "\x7fgpt", "gpt\r\n5", "gpt\u00855", "gpt-5\u00a0", "\u2003gpt-5", "gpt-5\u2028", " ",
	} {
		for _, p := range descriptor.Protocols {
			r := with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model, r.Protocol = model, p })
			if got := s.refuse(t, r, http.StatusBadRequest); p != descriptor.ProtocolAnthropic && p != descriptor.ProtocolGemini && errorOf(t, got).Code != "invalid_model" {
				t.Errorf("model %q, %s: %s", model, p, got.Body)
			}
		}
	}
	for _, model := range []string{"gpt-5", "a b", "модель", "gpt/5:latest@x", "\xff", strings.Repeat("m", 253)} {
		s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model = model }))
	}
}

// One key at two gateways meets the ModelLimits that each of them selects, and one count where both select the same.
func TestLimitsAreThoseOfTheGatewayThatIsAsked(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {}}
labels: {inner: {for: inner}, outer: {for: outer}}
models:
  inner: {models: [gpt-5], shared: {rates: [{metric: Requests, per: Hour, max: 3}]}, tokens: {defaultOutputTokens: 5}}
  outer: {models: [gpt-5], shared: {rates: [{metric: Requests, per: Hour, max: 1}]}, tokens: {defaultOutputTokens: 7}}
gateway: {modelLimitSelector: {matchLabels: {for: inner}}}
gateways:
  team/outer: {modelLimitSelector: {matchLabels: {for: outer}}, unknownModels: {action: Deny}}
  team/also-inner: {modelLimitSelector: {matchExpressions: [{key: for, operator: In, values: [inner]}]}}
  team/none: {modelLimitSelector: {matchLabels: {for: nobody}}, unknownModels: {action: Deny}}
`)
	at := func(gateway string) *descriptor.Reserve {
		return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Gateway, r.MaxOutput = gateway, 0 })
	}
	reserved := func(gateway string) int64 {
		l, err := sealer.Open(s.pass(t, at(gateway)).Lease)
		if err != nil {
			t.Fatal(err)
		}
		return l.Output
	}
	for gateway, want := range map[string]int64{gatewayName: 5, "team/outer": 7, "team/also-inner": 5} {
		if got := reserved(gateway); got != want {
			t.Errorf("at %s %d tokens of output are reserved, want %d", gateway, got, want)
		}
	}
	s.refuse(t, at("team/outer"), http.StatusTooManyRequests)
	s.refuse(t, at("team/none"), http.StatusNotFound)
	s.pass(t, at("team/also-inner"))
	s.refuse(t, at(gatewayName), http.StatusTooManyRequests)
}
