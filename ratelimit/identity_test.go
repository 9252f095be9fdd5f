package ratelimit_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Each holder has a limit of its own, so that a response tells who was counted.
const holders = `
tiers:
  plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10}]}}
  large: {limits: {rates: [{metric: Requests, per: Minute, max: 20}]}}
quotas:
  team/alice: {tierRef: {name: plan}}
  team/bob: {tierRef: {name: large}}
  team/suspended: {tierRef: {name: plan}, desiredState: Suspended}
  team/expiring: {tierRef: {name: plan}, expirationTime: "2024-02-14T12:31:00Z"}
  team/pending: {tierRef: {name: nowhere}}
  other/foreign: {tierRef: {name: plan}}
  other/foreign-suspended: {tierRef: {name: plan}, desiredState: Suspended}
`

const (
	alice = "10"
	bob   = "20"
)

func TestIdentityIsTheKeyThatARequestBrings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		credentials []descriptor.Credential
		want        string // X-RateLimit-Limit of whoever was counted, or the code of the refusal
	}{
		"a bearer token":                             {list(bearer("Bearer sk-alice")), alice},
		"a bearer token of somebody else":            {list(bearer("Bearer sk-bob")), bob},
		"Bearer in any case":                         {list(bearer("bEARER sk-alice")), alice},
		"white space around the key":                 {list(bearer("  Bearer   sk-alice ")), alice},
		"a header without a prefix":                  {list(apiKey("sk-alice")), alice},
		"a query parameter":                          {list(query("sk-alice")), alice},
		"the same key twice in one header":           {list(bearer("Bearer sk-alice, Bearer sk-alice")), alice},
		"the same key in all places":                 {list(bearer("Bearer sk-alice"), apiKey("sk-alice"), query("sk-alice")), alice},
		"a key beside an empty header":               {list(bearer("Bearer sk-alice"), apiKey("")), alice},
		"a key beside an empty repetition":           {list(apiKey("sk-alice,")), alice},
		"a key beside another scheme":                {list(bearer("Basic c2stYm9i"), apiKey("sk-bob")), bob},
		"nothing":                                    {nil, "missing_api_key"},
		"an empty header":                            {list(bearer("")), "missing_api_key"},
		"a header of white space":                    {list(apiKey(" \t ")), "missing_api_key"},
		"a prefix and no key":                        {list(bearer("Bearer ")), "missing_api_key"},
		"a prefix without the space after it":        {list(bearer("Bearersk-alice")), "missing_api_key"},
		"a wrong prefix":                             {list(bearer("Basic sk-alice")), "missing_api_key"},
		"no prefix where one belongs":                {list(bearer("sk-alice")), "missing_api_key"},
		"a header that is no source":                 {list(descriptor.NewCredential("x-other", "", "sk-alice")), "missing_api_key"},
		"a header of a query parameter's name":       {list(descriptor.NewCredential("key", "", "sk-alice")), "missing_api_key"},
		"a query parameter of a header's name":       {list(descriptor.NewCredential("", "x-api-key", "sk-alice")), "missing_api_key"},
		"a key that nobody holds":                    {list(bearer("Bearer sk-nobody")), "invalid_api_key"},
		"a key in other letters":                     {list(bearer("Bearer SK-ALICE")), "invalid_api_key"},
		"a key in the header without prefix as well": {list(apiKey("Bearer sk-alice")), "invalid_api_key"},
		"different keys in two headers":              {list(bearer("Bearer sk-alice"), apiKey("sk-bob")), "conflicting_api_keys"},
		"different keys in one header":               {list(bearer("Bearer sk-alice,Bearer sk-bob")), "conflicting_api_keys"},
		"different keys in header and query":         {list(apiKey("sk-alice"), query("sk-bob")), "conflicting_api_keys"},
		"a key that nobody holds beside a good one":  {list(bearer("Bearer sk-alice"), apiKey("sk-nobody")), "conflicting_api_keys"},
		"the same key twice around another":          {list(apiKey("sk-alice,sk-bob,sk-alice")), "conflicting_api_keys"},
		"a suspended key":                            {list(bearer("Bearer sk-suspended")), "api_key_suspended"},
		"a key whose quota was never accepted":       {list(bearer("Bearer sk-pending")), "api_key_pending"},
		"a key of another namespace":                 {list(bearer("Bearer sk-foreign")), "invalid_api_key"},
		"a suspended key of another namespace":       {list(bearer("Bearer sk-foreign-suspended")), "invalid_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, holders)
			d := s.ask(t, with(chat(""), func(r *descriptor.Reserve) { r.Credentials = tc.credentials }))
			got := headersOf(t, d)["X-RateLimit-Limit"]
			if d.Status != 0 {
				got = errorOf(t, d).Code
				if d.Status != http.StatusUnauthorized {
					t.Errorf("status is %d, want 401", d.Status)
				}
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func list(c ...descriptor.Credential) []descriptor.Credential { return c }

func TestAKeyExpiresExactlyAtItsTime(t *testing.T) {
	t.Parallel()
	s := serve(t, holders)
	s.clock.set(time.Date(2024, 2, 14, 12, 30, 59, 999_999_999, time.UTC))
	s.pass(t, chat("sk-expiring"))
	s.clock.advance(1)
	if got := errorOf(t, s.refuse(t, chat("sk-expiring"), http.StatusUnauthorized)).Code; got != "api_key_expired" {
		t.Errorf("code is %s, want api_key_expired", got)
	}
}

// What a 401 says is complete: no limit is known, and waiting does not help.
func TestARefusedKeyIsToldWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := serve(t, holders)
	openAI := s.refuse(t, chat("sk-nobody"), http.StatusUnauthorized)
	const want = `{"error":{"type":"authentication_error",` +
		`"message":"The API key is not valid. Check that it is complete and was not revoked.","code":"invalid_api_key"}}`
	if diff := cmp.Diff(want, openAI.Body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"X-RateLimit-Resource": "chat"}, headersOf(t, openAI)); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	anthropic := s.refuse(t, with(chat("sk-nobody"), func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolAnthropic }), http.StatusUnauthorized)
	const wantAnthropic = `{"type":"error","error":{"type":"authentication_error",` +
		`"message":"The API key is not valid. Check that it is complete and was not revoked."}}`
	if diff := cmp.Diff(wantAnthropic, anthropic.Body); diff != "" {
		t.Errorf("body for Anthropic (-want +got):\n%s", diff)
	}
}

// strangers are manifests by which a gateway assigns a tier to requests without a key, open, and to those with an unknown
// one. The tier open has two requests a minute, wide three. Keys have ten.
func strangers(unknown string) string {
	return `
tiers:
  plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10}]}}
  open: {limits: {rates: [{metric: Requests, per: Minute, max: 2}]}}
  wide: {limits: {rates: [{metric: Requests, per: Minute, max: 3}]}}
quotas:
  team/alice: {tierRef: {name: plan}}
  team/suspended: {tierRef: {name: plan}, desiredState: Suspended}
  other/foreign: {tierRef: {name: plan}}
gateway:
  identity:
    missingKey: {action: AssignTier, tierRef: {name: open}}
    unknownKey: {action: AssignTier, tierRef: {name: ` + unknown + `}}
`
}

func stranger(client string, credentials ...descriptor.Credential) *descriptor.Reserve {
	return with(chat(""), func(r *descriptor.Reserve) { r.Client, r.Credentials = client, credentials })
}

func TestStrangersAreCountedByAddress(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second *descriptor.Reserve
		same   bool // counted together with 192.0.2.1 or 2001:db8::1 that asked before
	}{
		"the same address":                      {stranger("192.0.2.1"), true},
		"another address":                       {stranger("192.0.2.2"), false},
		"the same address as IPv6 writes it":    {stranger("::ffff:192.0.2.1"), true},
		"the same address with a made-up key":   {stranger("192.0.2.1", apiKey("sk-made-up")), true},
		"the same address with another one":     {stranger("192.0.2.1", apiKey("sk-made-up-too")), true},
		"another address of the same /64":       {stranger("2001:db8::ffff:1"), true},
		"another address of the same /64, zone": {stranger("2001:db8::2%eth0"), true},
		"an address of the next /64":            {stranger("2001:db8:0:1::1"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, strangers("open"))
			for _, first := range []string{"192.0.2.1", "2001:db8::1"} {
				s.pass(t, stranger(first))
				s.pass(t, stranger(first))
				s.refuse(t, stranger(first), http.StatusTooManyRequests)
			}
			got := s.ask(t, tc.second).Status == http.StatusTooManyRequests
			if got != tc.same {
				t.Errorf("counted together: %t, want %t", got, tc.same)
			}
		})
	}
}

func TestAnAddressKeepsItsCountWithAndWithoutAKey(t *testing.T) {
	t.Parallel()
	s := serve(t, strangers("wide"))
	s.pass(t, stranger("192.0.2.1"))
	s.pass(t, stranger("192.0.2.1"))
	s.refuse(t, stranger("192.0.2.1"), http.StatusTooManyRequests)
	s.pass(t, stranger("192.0.2.1", apiKey("sk-made-up")))
	s.refuse(t, stranger("192.0.2.1", apiKey("sk-made-up")), http.StatusTooManyRequests)
}

func TestWhoIsNoStranger(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		request *descriptor.Reserve
		want    string
	}{
		"a suspended key":             {chat("sk-suspended"), "api_key_suspended"},
		"a key of another namespace":  {chat("sk-foreign"), "invalid_api_key"},
		"two keys":                    {stranger("192.0.2.1", apiKey("sk-a"), query("sk-b")), "conflicting_api_keys"},
		"somebody without an address": {stranger(""), "missing_api_key"},
		"a key without an address":    {stranger("unix:/run/envoy", apiKey("sk-a")), "invalid_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := serve(t, strangers("open")).refuse(t, tc.request, http.StatusUnauthorized)
			if got := errorOf(t, d).Code; got != tc.want {
				t.Errorf("code is %s, want %s", got, tc.want)
			}
		})
	}
}

func TestAKeyIsNotCountedWithItsAddress(t *testing.T) {
	t.Parallel()
	s := serve(t, strangers("open"))
	s.pass(t, stranger("192.0.2.1"))
	s.pass(t, stranger("192.0.2.1"))
	s.refuse(t, stranger("192.0.2.1"), http.StatusTooManyRequests)
	got := headersOf(t, s.pass(t, chat("sk-alice")))
	if got["X-RateLimit-Used"] != "1" || got["X-RateLimit-Limit"] != "10" {
		t.Errorf("headers are %v, want the first of 10 requests", got)
	}
}

func TestAGatewayServesTheNamespacesItAllows(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		allowed string
		want    map[string]bool // by key
	}{
		"its own where nothing is said": {"null", map[string]bool{"sk-a": true, "sk-b": false, "sk-c": false}},
		"its own":                       {"{namespaces: {from: Same}}", map[string]bool{"sk-a": true, "sk-b": false, "sk-c": false}},
		"all":                           {"{namespaces: {from: All}}", map[string]bool{"sk-a": true, "sk-b": true, "sk-c": true}},
		"those with a label": {
			"{namespaces: {from: Selector, selector: {matchLabels: {ai: \"yes\"}}}}",
			map[string]bool{"sk-a": false, "sk-b": true, "sk-c": false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, `
tiers: {plan: {}}
quotas: {team/a: {tierRef: {name: plan}}, labelled/b: {tierRef: {name: plan}}, other/c: {tierRef: {name: plan}}}
namespaces: {labelled: {ai: "yes"}}
gateway: {allowedKeys: `+tc.allowed+`}`)
			for key, want := range tc.want {
				if got := s.ask(t, chat(key)).Status == 0; got != want {
					t.Errorf("%s passes: %t, want %t", key, got, want)
				}
			}
		})
	}
}
