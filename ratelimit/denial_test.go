package ratelimit_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// wireError is the error of a body, in either shape.
type wireError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Code    string `json:"code"`
}

func errorOf(t testing.TB, d ratelimit.Decision) wireError {
	t.Helper()
	var body struct {
		Error wireError `json:"error"`
	}
	if err := json.Unmarshal([]byte(d.Body), &body); err != nil {
		t.Fatalf("decoding the body %q: %v", d.Body, err)
	}
	return body.Error
}

func anthropic(r *descriptor.Reserve) *descriptor.Reserve {
	return with(r, func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolAnthropic })
}

func google(r *descriptor.Reserve) *descriptor.Reserve {
	return with(r, func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolGemini })
}

func TestEachStatusHasABodyInTheShapeOfTheProtocol(t *testing.T) {
	t.Parallel()
	for exceeded, want := range map[string]struct {
		status                    int
		openAI, anthropic, google string
	}{
		"TooManyRequests": {
			http.StatusTooManyRequests,
			`{"error":{"type":"rate_limit_error","message":"Rate limit exceeded. Please retry after 12 seconds.","code":"rate_limit_exceeded"}}`,
			`{"type":"error","error":{"type":"rate_limit_error","message":"Rate limit exceeded. Please retry after 12 seconds."}}`,
			`{"error":{"code":429,"message":"Rate limit exceeded. Please retry after 12 seconds.","status":"RESOURCE_EXHAUSTED"}}`,
		},
		"PaymentRequired": {
			http.StatusPaymentRequired,
			`{"error":{"type":"payment_required","message":"Quota exceeded. Upgrade your plan or retry after 12 seconds.","code":"quota_exceeded"}}`,
			`{"type":"error","error":{"type":"billing_error","message":"Quota exceeded. Upgrade your plan or retry after 12 seconds."}}`,
			`{"error":{"code":402,"message":"Quota exceeded. Upgrade your plan or retry after 12 seconds.","status":"RESOURCE_EXHAUSTED"}}`,
		},
		"Forbidden": {
			http.StatusForbidden,
			`{"error":{"type":"permission_error","message":"Limit exceeded. It resets in 12 seconds.","code":"limit_exceeded"}}`,
			`{"type":"error","error":{"type":"permission_error","message":"Limit exceeded. It resets in 12 seconds."}}`,
			`{"error":{"code":403,"message":"Limit exceeded. It resets in 12 seconds.","status":"PERMISSION_DENIED"}}`,
		},
		"ServiceUnavailable": {
			http.StatusServiceUnavailable,
			`{"error":{"type":"service_unavailable","message":"Capacity exceeded. Please retry after 12 seconds.","code":"capacity_exceeded"}}`,
			`{"type":"error","error":{"type":"overloaded_error","message":"Capacity exceeded. Please retry after 12 seconds."}}`,
			`{"error":{"code":503,"message":"Capacity exceeded. Please retry after 12 seconds.","status":"UNAVAILABLE"}}`,
		},
	} {
		t.Run(exceeded, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier("{rates: [{metric: Requests, per: Minute, max: 1, exceeded: "+exceeded+"}]}"))
			s.pass(t, chat("sk-alice"))
			openAI := s.refuse(t, chat("sk-alice"), want.status)
			if diff := cmp.Diff(want.openAI, openAI.Body); diff != "" {
				t.Errorf("OpenAI's shape (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.anthropic, s.refuse(t, anthropic(chat("sk-alice")), want.status).Body); diff != "" {
				t.Errorf("Anthropic's shape (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.google, s.refuse(t, google(chat("sk-alice")), want.status).Body); diff != "" {
				t.Errorf("Google's shape (-want +got):\n%s", diff)
			}
			if got := headersOf(t, openAI)["Retry-After"]; got != "12" {
				t.Errorf("Retry-After is %q, want 12", got)
			}
		})
	}
}

func TestRetryAfterIsTheSecondsOfTheMessage(t *testing.T) {
	t.Parallel()
	const no = "false"
	for name, tc := range map[string]struct {
		limits      string
		at          time.Duration // after start
		retry       string
		shouldRetry string
	}{
		"whole seconds":                    {rates("Requests Minute 1"), 0, "12", ""},
		"a part of a second is rounded up": {rates("Requests Minute 1"), 1, "12", ""},
		"never 0":                          {rates("Requests Minute 1"), 12*time.Second - 1, "1", ""},
		"a window that has just begun":     {rates("Requests Minute 1"), 12 * time.Second, "60", ""},
		"a second":                         {rates("Requests Second 1"), time.Second / 2, "1", ""},
		"60 seconds may be waited":         {rates("Requests Hour 1"), 1692 * time.Second, "60", ""},
		"61 seconds may not":               {rates("Requests Hour 1"), 1691 * time.Second, "61", no},
		"an hour":                          {rates("Requests Hour 1"), 0, "1752", no},
		"a day":                            {rates("Requests Day 1"), 0, "41352", no},
		"a month of 29 days":               {rates("Requests Month 1"), 0, "1337352", no},
		"nothing is allowed":               {rates("Requests Minute 0"), 0, "12", no},
		"concurrency":                      {"{concurrency: {max: 1}}", 0, "1", ""},
		"no concurrency is allowed":        {"{concurrency: {max: 0}}", 0, "1", no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(tc.limits))
			s.clock.advance(tc.at)
			if !strings.Contains(tc.limits, "max: 0") {
				s.pass(t, chat("sk-alice"))
			}
			d := s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
			headers := headersOf(t, d)
			if headers["Retry-After"] != tc.retry || headers["x-should-retry"] != tc.shouldRetry {
				t.Errorf("Retry-After is %q and x-should-retry %q, want %q and %q",
					headers["Retry-After"], headers["x-should-retry"], tc.retry, tc.shouldRetry)
			}
			if got := secondsIn(t, d); got != tc.retry {
				t.Errorf("the message speaks of %s seconds, Retry-After of %s", got, tc.retry)
			}
		})
	}
}

func secondsIn(t testing.TB, d ratelimit.Decision) string {
	t.Helper()
	message := errorOf(t, d).Message
	if strings.Contains(message, "%") {
		t.Errorf("the message %q is not filled in", message)
	}
	found := regexp.MustCompile(`(\d+) seconds\.$`).FindStringSubmatch(message)
	if found == nil {
		t.Fatalf("the message %q tells no seconds", message)
	}
	return found[1]
}

func TestADenialNamesTheLimitThatResetsLast(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limits string
		code   string
		retry  string
	}{
		"the only one that refuses": {rates("Requests Minute 1", "Requests Day 5"), "rate_limit_exceeded", "12"},
		"of two the later":          {rates("Requests Minute 1", "Requests Day 1"), "rate_limit_exceeded", "41352"},
		"whatever it counts":        {rates("Requests Hour 1", "Tokens Minute 10"), "rate_limit_exceeded", "1752"},
		"with its status": {
			"{rates: [{metric: Requests, per: Minute, max: 1}, {metric: Requests, per: Day, max: 1, exceeded: PaymentRequired}]}",
			"quota_exceeded", "41352",
		},
		"not that of a limit that would allow it": {
			"{rates: [{metric: Requests, per: Minute, max: 1}, {metric: Requests, per: Day, max: 2, exceeded: PaymentRequired}]}",
			"rate_limit_exceeded", "12",
		},
		"concurrency alone": {"{concurrency: {max: 1}}", "concurrency_limit_exceeded", "1"},
		"concurrency yields to a rate": {
			"{rates: [{metric: Requests, per: Second, max: 1}], concurrency: {max: 1}}", "rate_limit_exceeded", "1",
		},
		"but not to one that would allow it": {
			"{rates: [{metric: Requests, per: Minute, max: 2}], concurrency: {max: 1}}", "concurrency_limit_exceeded", "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(tc.limits))
			s.pass(t, chat("sk-alice"))
			d := s.ask(t, chat("sk-alice"))
			if got := errorOf(t, d).Code; got != tc.code {
				t.Errorf("code is %s, want %s", got, tc.code)
			}
			if got := headersOf(t, d)["Retry-After"]; got != tc.retry {
				t.Errorf("Retry-After is %s, want %s", got, tc.retry)
			}
		})
	}
}

func TestConcurrencyIsDeniedInBothShapes(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	s.pass(t, chat("sk-alice"))
	const want = `{"error":{"type":"rate_limit_error","message":"Too many requests at once. Please retry after 1 seconds.","code":"concurrency_limit_exceeded"}}`
	if diff := cmp.Diff(want, s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests).Body); diff != "" {
		t.Errorf("OpenAI's shape (-want +got):\n%s", diff)
	}
	const wantAnthropic = `{"type":"error","error":{"type":"rate_limit_error","message":"Too many requests at once. Please retry after 1 seconds."}}`
	if diff := cmp.Diff(wantAnthropic, s.refuse(t, anthropic(chat("sk-alice")), http.StatusTooManyRequests).Body); diff != "" {
		t.Errorf("Anthropic's shape (-want +got):\n%s", diff)
	}
}

func TestADeniedRequestCostsNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 9}, {metric: Tokens, per: Day, max: 900}], concurrency: {max: 9}}}}
models: {large: {models: ["gpt-*"], shared: {rates: [{metric: Requests, per: Minute, max: 1}]}}}
`)
	s.pass(t, chat("sk-alice"))
	before := s.used(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	if diff := cmp.Diff(before, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters before and after (-before +after):\n%s", diff)
	}
}

func TestWithoutATableNobodyPasses(t *testing.T) {
	t.Parallel()
	empty := &service{Limiter: ratelimit.New(nil, secret, ratelimit.WithClock(func() time.Time { return start }))}
	ready := serve(t, oneTier("{}"))
	elsewhere := func(gateway string) *descriptor.Reserve {
		return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Gateway = gateway })
	}
	for name, tc := range map[string]struct {
		service *service
		request *descriptor.Reserve
	}{
		"a table was never set":   {empty, chat("sk-alice")},
		"the gateway is unknown":  {ready, elsewhere("team/other")},
		"no gateway is named":     {ready, elsewhere("")},
		"a gateway half named":    {ready, elsewhere("edge")},
		"of Anthropic's protocol": {ready, anthropic(elsewhere("team/other"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := tc.service.refuse(t, tc.request, http.StatusServiceUnavailable)
			if diff := cmp.Diff(map[string]string{"Retry-After": "2"}, headersOf(t, d)); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if got := secondsIn(t, d); got != "2" {
				t.Errorf("the message speaks of %s seconds", got)
			}
		})
	}
}

func TestMoreLimitsThanALeaseCarriesAreRefused(t *testing.T) {
	t.Parallel()
	var all []string
	for _, metric := range []string{"Requests", "Tokens", "InputTokens", "OutputTokens"} {
		for _, per := range []string{"Second", "Minute", "Hour", "Day", "Month"} {
			all = append(all, metric+" "+per+" 9000")
		}
	}
	plan := "tiers: {plan: {limits: " + rates(all...) + "}}\n"
	s := serve(t, plan)
	s.pass(t, chat("sk-alice"))
	// The quota is no longer accepted and goes on as before, but a model has more limits now.
	s.apply(t, plan+"models: {large: {models: [gpt-5], shared: "+rates(all...)+"}}")
	d := s.refuse(t, chat("sk-alice"), http.StatusServiceUnavailable)
	if got := errorOf(t, d).Code; got != "too_many_limits" {
		t.Errorf("code is %s, want too_many_limits", got)
	}
	if got, retry := secondsIn(t, d), headersOf(t, d)["Retry-After"]; got != retry || got == "0" {
		t.Errorf("the message speaks of %s seconds, Retry-After of %s", got, retry)
	}
	s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model = "other" }))
}

func TestARequestMustNameAModelThatAnObjectCouldHold(t *testing.T) {
	t.Parallel()
	const refused = "invalid_model"
	for name, tc := range map[string]struct {
		key, model string
		protocol   descriptor.Protocol
		want       string // the code of the refusal, nothing if it passes
	}{
		"as long as can be":                  {"sk-alice", strings.Repeat("m", 253), descriptor.ProtocolOpenAIChat, ""},
		"longer":                             {"sk-alice", strings.Repeat("m", 254), descriptor.ProtocolOpenAIChat, refused},
		"none, in OpenAI's protocol":         {"sk-alice", "", descriptor.ProtocolOpenAIChat, refused},
		"none, for embeddings":               {"sk-alice", "", descriptor.ProtocolOpenAIEmbeddings, refused},
		"none, in Anthropic's protocol":      {"sk-alice", "", descriptor.ProtocolAnthropic, refused},
		"none, where nobody looks for one":   {"sk-alice", "", descriptor.ProtocolOpaque, ""},
		"none, and the key is refused first": {"sk-nobody", "", descriptor.ProtocolOpenAIChat, "invalid_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier("{}"))
			request := with(chat(tc.key), func(r *descriptor.Reserve) { r.Model, r.Protocol = tc.model, tc.protocol })
			if tc.want == "" {
				s.pass(t, request)
				return
			}
			d := s.ask(t, request)
			if got := errorOf(t, d); got.Code != tc.want && (tc.protocol != descriptor.ProtocolAnthropic || got.Type != "invalid_request_error") {
				t.Errorf("the error is %+v, want %s", got, tc.want)
			}
			if tc.want == refused && (d.Status != http.StatusBadRequest || !strings.Contains(d.Body, strconv.Itoa(253))) {
				t.Errorf("the answer is %d %s, want 400 and the length that is allowed", d.Status, d.Body)
			}
		})
	}
}

// Every denial that a limiter can word is JSON, names what is wrong and promises nothing that its headers do not.
func TestNoDenialPromisesWhatItsHeadersDoNot(t *testing.T) {
	t.Parallel()
	s := serve(t, holders)
	for _, key := range []string{"", "sk-nobody", "sk-suspended", "sk-pending", "sk-foreign"} {
		d := s.refuse(t, chat(key), http.StatusUnauthorized)
		if strings.Contains(d.Body, "%") || strings.Contains(d.Body, "seconds") {
			t.Errorf("a refused key is told to wait: %s", d.Body)
		}
		if headers := headersOf(t, d); headers["Retry-After"] != "" {
			t.Errorf("a refused key gets Retry-After %s", headers["Retry-After"])
		}
	}
}
