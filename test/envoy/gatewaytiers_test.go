package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	freeKey        = "sk-free-0123456789abcdef"
	proKey         = "sk-pro-0123456789abcdef"
	enterpriseKey  = "sk-enterprise-0123456789abcdef"
	customKey      = "sk-custom-0123456789abcdef"
	fewOpusKey     = "sk-few-opus-0123456789abcdef"
	aliceLaptopKey = "sk-alice-laptop-0123456789abcdef"
	aliceServerKey = "sk-alice-server-0123456789abcdef"

	anyModel = "a-model-that-nobody-names"
)

// The document's limits of models, which all keys share: requests and tokens a minute. 0 is none.
var sharedModels = []struct {
	model            string
	requests, tokens int64
}{
	{"gpt-4-turbo", 500, 300_000},
	{"gpt-4", 200, 40_000},
	{"gpt-3.5-turbo", 3_500, 350_000},
	{"claude-3-5-sonnet-20241022", 1_000, 400_000},
	{"claude-3-opus-20240229", 200, 40_000},
	{"gemini-1.5-pro", 360, 4_000_000},
	{"dall-e-3", 50, 0},
	{"text-embedding-3-small", 3_000, 1_000_000},
}

// ofModel is a request for a model in the protocol of its provider.
func ofModel(key, model string) request {
	endpoint := chatEndpoint
	switch {
	case model == "dall-e-3":
		endpoint = imageEndpoint
	case strings.HasPrefix(model, "text-embedding"):
		endpoint = embeddingEndpoint
	case strings.HasPrefix(model, "claude"):
		endpoint = messagesEndpoint
	case strings.HasPrefix(model, "gemini"):
		endpoint = geminiEndpoint
	}
	return endpoint.request(key, model)
}

func TestGatewayTiersAdmitExactlyTheirMinute(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	for key, most := range map[string]int64{freeKey: 60, proKey: 600} {
		a := s.checkAdmits(t, key, most, turn(key, anyModel, []endpoint{chatEndpoint, messagesEndpoint})...)
		checkGatewayHeaders(t, key, a)
	}
	for range 700 { // more than any plan but this one allows
		checkNoLimit(t, "enterprise", s.pass(t, chat(enterpriseKey, prompt{model: anyModel})))
	}
}

func TestGatewayTiersAdmitExactlyTheirTokens(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	for key, most := range map[string]int64{freeKey: 40_000, proKey: 400_000, customKey: 5_000_000} {
		r := reserving(key, anyModel)
		s.checkTokens(t, key, most, most/2, r, r)
	}
}

func TestGatewayTiersAdmitSoManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	for key, most := range map[string]int{freeKey: 5, proKey: 20} {
		open := chat(key, prompt{model: anyModel, maxTokens: 10, stream: true}, "x-demo-token-delay: 1h")
		for _, st := range s.openAll(t, most, open) {
			if st.status != http.StatusOK {
				t.Errorf("%s: one of %d at once got %d", key, most, st.status)
			}
		}
		if a := s.send(t, open); !a.busy() || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: one more than %d at once got %d, Retry-After %q: %s", key, most, a.status, a.header.Get("Retry-After"), a.body)
		}
	}
	for _, st := range s.openAll(t, 60, chat(enterpriseKey, prompt{model: anyModel, stream: true}, "x-demo-token-delay: 1h")) {
		if st.status != http.StatusOK {
			t.Errorf("enterprise: one of 60 at once got %d", st.status)
		}
	}
}

// A hundredth of the day's 5,000 requests is less than the minute's 60, so the day ends first.
func TestGatewayTiersAskForPaymentAtTheEndOfTheDaysRequests(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	files := sample(t, "gateway-tiers")
	name, content := edit(t, files, ", window: Minute}", ", window: Day}") // headers speak of one window
	files[name] = content
	r := chat(freeKey, prompt{model: anyModel})
	if limit := start(t, files).pass(t, r).number(t, "x-ratelimit-limit-requests"); limit != 5_000 {
		t.Errorf("%d requests a day, want 5000", limit)
	}

	s := start(t, divided(t, files, 100, "{metric: Requests, per: Day, max: 5000,"))
	clearOf(t, day)
	used := 0
	a := s.settled(t, r)
	for ; a.status == http.StatusOK && used < 100; a = s.settled(t, r) {
		used++
	}
	wait, left := a.number(t, "Retry-After"), int64(time.Until(time.Now().Truncate(day).Add(day)).Seconds())
	want := fmt.Sprintf(`{"error":{"type":"payment_required","message":"Quota exceeded. Upgrade your plan or retry after %d seconds.","code":"quota_exceeded"}}`, wait)
	if used != 50 || a.status != http.StatusPaymentRequired || a.body != want || a.header.Get("x-should-retry") != "false" {
		t.Errorf("after %d requests: %d, x-should-retry %q: %s, want 402 after 50: %s", used, a.status, a.header.Get("x-should-retry"), a.body, want)
	}
	if wait < left || wait > left+10 || wait != a.number(t, "x-ratelimit-reset-requests") {
		t.Errorf("Retry-After %d and reset %s, want the %d seconds that are left of the day", wait, a.header.Get("x-ratelimit-reset-requests"), left)
	}
	if other := s.send(t, chat(proKey, prompt{model: anyModel})); other.status != http.StatusOK {
		t.Errorf("another plan got %d: %s", other.status, other.body)
	}
}

// Headers tell the limit with least left: for a key without limits that of the model.
func TestGatewayTiersTellEveryModel(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	for _, row := range sharedModels {
		a := s.pass(t, ofModel(enterpriseKey, row.model))
		if limit := a.number(t, "x-ratelimit-limit-requests"); limit != row.requests {
			t.Errorf("%s: %d requests a minute, want %d", row.model, limit, row.requests)
		}
		if row.tokens == 0 {
			if limit := a.header.Get("x-ratelimit-limit-tokens"); limit != "" {
				t.Errorf("%s: %s tokens a minute, want no limit", row.model, limit)
			}
			continue
		}
		checkGatewayHeaders(t, row.model, a)
		if limit := a.number(t, "x-ratelimit-limit-tokens"); limit != row.tokens {
			t.Errorf("%s: %d tokens a minute, want %d", row.model, limit, row.tokens)
		}
	}
}

// Two keys in turn, neither of which has a limit that is smaller. What is thousands is a tenth here.
func TestGatewayTiersShareTheRequestsOfAModel(t *testing.T) {
	t.Parallel()
	s := start(t, divided(t, sample(t, "gateway-tiers"), 10,
		"{metric: Requests, per: Minute, max: 3500}", "{metric: Requests, per: Minute, max: 1000}", "{metric: Requests, per: Minute, max: 3000}"))
	for _, row := range sharedModels {
		if row.requests >= 1_000 {
			row.requests /= 10
		}
		if row.model == "gpt-4-turbo" {
			continue // See TestGatewayTiersCountGPT4InItsFamily.
		}
		s.checkAdmits(t, row.model, row.requests, ofModel(enterpriseKey, row.model), ofModel(customKey, row.model))
	}
}

// What GPT-4 takes is taken from the 500 of the family.
func TestGatewayTiersCountGPT4InItsFamily(t *testing.T) {
	t.Parallel()
	both := func(model string) []request {
		return []request{ofModel(enterpriseKey, model), ofModel(customKey, model)}
	}
	for range 3 { // the minute may end on the way, and then the family's next one is used up
		s := start(t, sample(t, "gateway-tiers"))
		four := s.checkAdmits(t, "gpt-4", 200, both("gpt-4")...)
		turbo, admitted := s.untilRefused(t, 500, slices.Concat(both("gpt-4-turbo"), both("gpt-4o"))...)
		if four.window(t) != turbo.window(t) {
			if admitted != 500 {
				t.Errorf("%d requests of the family were admitted in a minute, want 500", admitted)
			}
			continue
		}
		if admitted != 300 || turbo.number(t, "x-ratelimit-limit-requests") != 500 {
			t.Errorf("beside 200 of gpt-4, %d of %s requests of the family were admitted, want 300 of 500", admitted, turbo.header.Get("x-ratelimit-limit-requests"))
		}
		return
	}
	t.Fatal("no minute was long enough")
}

func TestGatewayTiersCountTheTokensOfGPT4InItsFamily(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	s.checkTokens(t, "gpt-4-turbo beside gpt-4", 300_000, 40_000, reserving(enterpriseKey, "gpt-4"), reserving(customKey, "gpt-4-turbo"))
}

func TestGatewayTiersShareTheTokensOfAModel(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	for _, row := range sharedModels {
		switch row.model {
		case "dall-e-3": // It has no limit of tokens.
		case "gpt-4-turbo": // See TestGatewayTiersCountTheTokensOfGPT4InItsFamily.
		case "text-embedding-3-small":
			s.checkEmbeddingTokens(t, row.model, row.tokens)
		default:
			s.checkTokens(t, row.model, row.tokens, row.tokens/2, reserving(enterpriseKey, row.model), reserving(customKey, row.model))
		}
	}
}

// checkEmbeddingTokens is checkTokens where only the input counts, at 4 bytes for a token. It is not exact, because the size
// of what is around the input is not.
func (s *system) checkEmbeddingTokens(t *testing.T, model string, limit int64) {
	t.Helper()
	percent := func(key string, n int64) request {
		return request{path: embeddingPath, key: key, body: jsonOf(map[string]string{"model": model, "input": strings.Repeat("word", int(limit*n/100))})}
	}
	for range 3 { // the minute may end on the way
		first, over, rest := s.pass(t, percent(enterpriseKey, 60)), s.send(t, percent(customKey, 41)), s.send(t, percent(customKey, 39))
		if first.window(t) != rest.window(t) {
			awaitWindowAfter(t, first.window(t))
			continue
		}
		checkRefusal(t, model, over)
		if rest.status != http.StatusOK || over.number(t, "x-ratelimit-limit-tokens") != limit {
			t.Errorf("%s: 99%% got %d, and 101%% are told a limit of %s tokens, want 200 and %d", model, rest.status, over.header.Get("x-ratelimit-limit-tokens"), limit)
		}
		return
	}
	t.Fatalf("%s: no minute was long enough", model)
}

func TestGatewayTiersHoldWhatIsAgreedByKeyModelAndUser(t *testing.T) {
	t.Parallel()
	s := start(t, divided(t, sample(t, "gateway-tiers"), 10,
		"{metric: Requests, per: Minute, max: 5000}", "{metric: Requests, per: Minute, max: 800}"))
	s.checkAdmits(t, "custom", 500, ofModel(customKey, anyModel))
	s.checkAdmits(t, "few-opus", 20, ofModel(fewOpusKey, "claude-3-opus-20240229"))
	s.checkAdmits(t, "alice", 80, ofModel(aliceLaptopKey, anyModel), ofModel(aliceServerKey, anyModel))
}

func TestGatewayTiersServeEveryPath(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "gateway-tiers"))
	all := turn(proKey, "gpt-4o-mini", textEndpoints)
	for _, endpoints := range otherEndpoints {
		all = slices.Concat(all, turn(proKey, "a-model", endpoints))
	}
	all = slices.Concat(all, turn(proKey, "sora-2", []endpoint{{"/v1/videos", "OpenAIImages"}}))
	for _, path := range []string{"/v1/videos/video_1", "/api/v1/videos/video_1/content"} {
		all = append(all, request{method: http.MethodGet, path: path, key: proKey})
	}
	s.checkServes(t, all)
	s.checkModelsAreFree(t, freeKey)
}

// checkGatewayHeaders demands the document's headers: both metrics reset in some seconds.
func checkGatewayHeaders(t *testing.T, name string, a answer) {
	t.Helper()
	checkSecondsLeft(t, name, a, "x-ratelimit-reset-requests")
	checkSecondsLeft(t, name, a, "x-ratelimit-reset-tokens")
	checkSomeIsUsed(t, name, a)
}
