package envoy_test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An endpoint is a path that samples serve and what its bodies look like: those of a protocol, or a form with a file.
// {model} stands for the model.
type endpoint struct{ path, form string }

const aFile = "a file"

var (
	chatEndpoint      = endpoint{chatPath, "OpenAIChatCompletions"}
	messagesEndpoint  = endpoint{messagesPath, "AnthropicMessages"}
	geminiEndpoint    = endpoint{"/v1beta/models/{model}:generateContent", "GeminiGenerateContent"}
	embeddingEndpoint = endpoint{embeddingPath, "OpenAIEmbeddings"}
	imageEndpoint     = endpoint{imagesPath, "OpenAIImages"}

	textEndpoints = []endpoint{
		chatEndpoint, messagesEndpoint, geminiEndpoint,
		{"/v1/completions", "OpenAICompletions"},
		{"/v1/responses", "OpenAIResponses"},
		{"/v1beta/models/{model}:streamGenerateContent?alt=sse", "GeminiGenerateContent"},
	}
	// otherEndpoints are those of what is not text, by resource, but for videos: each sample has paths of its own for them.
	otherEndpoints = map[string][]endpoint{
		"embeddings": {embeddingEndpoint},
		"images":     {imageEndpoint, {"/v1/images/edits", aFile}, {"/v1/images/variations", aFile}},
		"audio":      {{"/v1/audio/speech", "OpenAIEmbeddings"}, {"/v1/audio/transcriptions", aFile}, {"/v1/audio/translations", aFile}},
	}
)

func (e endpoint) request(key, model string) request {
	r := request{path: strings.ReplaceAll(e.path, "{model}", model), key: key}
	if e.form == aFile {
		var body strings.Builder
		r.contentType = writeForm(&body, map[string]string{"model": model}, "a.bin", 1000)
		r.body = body.String()
		return r
	}
	r.body, r.contentType = bodyFor(e.form, model)
	return r
}

// turn is a request to each endpoint, by its path and by the one below /api.
func turn(key, model string, endpoints []endpoint) []request {
	var all []request
	for _, e := range endpoints {
		plain := e.request(key, model)
		below := plain
		below.path = "/api" + plain.path
		all = append(all, plain, below)
	}
	return all
}

// checkAdmits demands that so many requests are admitted in a minute, and that the next one is told so.
func (s *system) checkAdmits(t *testing.T, name string, want int64, turn ...request) answer {
	t.Helper()
	a, admitted := s.untilRefused(t, int(want), turn...)
	if admitted != want {
		t.Errorf("%s: %d requests were admitted in the minute, want %d", name, admitted, want)
	}
	checkRefusal(t, name, a)
	if limit, left := a.number(t, "x-ratelimit-limit-requests"), a.number(t, "x-ratelimit-remaining-requests"); limit != want || left != 0 {
		t.Errorf("%s: the refusal tells %d of %d requests, want 0 of %d", name, left, limit, want)
	}
	return a
}

// checkRefusal demands that a refusal for a minute says when to come back, in a header and in words.
func checkRefusal(t *testing.T, name string, a answer) {
	t.Helper()
	wait := a.number(t, "Retry-After")
	if a.status != http.StatusTooManyRequests || wait < 1 || wait > 60 ||
		!strings.Contains(a.body, fmt.Sprintf("Rate limit exceeded. Please retry after %d seconds.", wait)) {
		t.Errorf("%s: refused with %d, Retry-After %d: %s", name, a.status, wait, a.body)
	}
}

// checkTokens demands that requests can take exactly so many tokens in a minute: one holds some of them while another asks
// for one more than the rest, and then for the rest.
func (s *system) checkTokens(t *testing.T, name string, limit, some int64, hold, ask func(tokens int64) request) {
	t.Helper()
	for range 3 { // the minute may end on the way
		held := s.open(t, hold(some))
		over, rest := s.open(t, ask(limit-some+1)), s.open(t, ask(limit-some))
		held.cut()
		rest.cut()
		if window := windowOfTokens(t, held.header); window != windowOfTokens(t, over.header) || window != windowOfTokens(t, rest.header) {
			over.cut()
			awaitWindowAfter(t, window) // What these cost is in the one that has begun.
			continue
		}
		if held.status != http.StatusOK || rest.status != http.StatusOK {
			t.Errorf("%s: requests for %d and the rest of %d tokens got %d and %d, want 200", name, some, limit, held.status, rest.status)
		}
		body, _ := over.end(t)
		checkRefusal(t, name, answer{over.status, over.header, body})
		for what, h := range map[string]http.Header{"that is refused": over.header, "for the rest": rest.header} {
			if got := numberIn(t, h, "x-ratelimit-limit-tokens"); got != limit {
				t.Errorf("%s: the request %s is told a limit of %d tokens, want %d", name, what, got, limit)
			}
		}
		if left := numberIn(t, rest.header, "x-ratelimit-remaining-tokens"); left != 0 {
			t.Errorf("%s: the request for the rest leaves %d tokens, want none", name, left)
		}
		return
	}
	t.Fatalf("%s: no minute was long enough", name)
}

// windowOfTokens is the end of the minute in which tokens were counted. All samples tell them in seconds.
func windowOfTokens(t *testing.T, h http.Header) int64 {
	t.Helper()
	return (time.Now().Unix() + numberIn(t, h, "x-ratelimit-reset-tokens") + 30) / 60 * 60
}

// awaitWindowAfter waits until the minute has ended that follows the one with this end.
func awaitWindowAfter(t *testing.T, end int64) {
	t.Helper()
	eventually(t, 2*time.Minute, "another minute begins", func() bool { return time.Now().Unix() >= end+60 })
}

// reserving is a stream of a model that stays open and reserves so many tokens, in the protocol of the model's provider.
func reserving(key, model string) func(tokens int64) request {
	return func(tokens int64) request {
		r := request{key: key, header: []string{"x-demo-token-delay: 1h"}}
		for most := tokens; ; most-- { // the number is part of the body, whose size counts
			r.path, r.body = streamOf(model, most)
			if most+(int64(len(r.body))+3)/4 <= tokens {
				return r
			}
		}
	}
}

func streamOf(model string, most int64) (path, body string) {
	switch {
	case strings.HasPrefix(model, "claude"):
		return messagesPath, prompt{model: model, maxTokens: int(most), stream: true}.messages()
	case strings.HasPrefix(model, "gemini-1.5"):
		return "/v1beta/models/" + model + ":streamGenerateContent?alt=sse", jsonOf(map[string]any{
			"contents":         []any{map[string]any{"parts": []any{map[string]string{"text": "Hello"}}}},
			"generationConfig": map[string]int64{"maxOutputTokens": most},
		})
	}
	return chatPath, prompt{model: model, maxTokens: int(most), stream: true}.chat()
}

// checkServes demands that every request passes, and that the provider gets it by the path that it knows.
func (s *system) checkServes(t *testing.T, all []request) {
	t.Helper()
	var want, got []string
	for _, r := range all {
		if a := s.settled(t, r); a.status != http.StatusOK {
			t.Errorf("%s: status %d: %s", r.path, a.status, a.body)
		}
		path, _, _ := strings.Cut(strings.TrimPrefix(r.path, "/api"), "?")
		want = append(want, path)
	}
	for _, r := range s.requests(t) {
		got = append(got, r.Path)
	}
	if strings.Join(want, "\n") != strings.Join(got, "\n") {
		t.Errorf("the provider got %v, want %v", got, want)
	}
}

// checkModelsAreFree demands that the list of models needs a key and costs nothing.
func (s *system) checkModelsAreFree(t *testing.T, key string) {
	t.Helper()
	for _, path := range []string{"/v1/models", "/api/v1/models"} {
		a := s.pass(t, request{method: http.MethodGet, path: path, key: key})
		checkNoLimit(t, path, a)
		if !strings.Contains(a.body, `"object":"list"`) {
			t.Errorf("%s is answered %s", path, a.body)
		}
		if a := s.send(t, request{method: http.MethodGet, path: path}); a.status != http.StatusUnauthorized {
			t.Errorf("%s without a key got %d", path, a.status)
		}
	}
}

// divided is a sample in which these limits have a maximum that is smaller by the factor: so that a test can reach them
// without thousands of requests, and without a change to the program.
func divided(t *testing.T, files map[string]string, factor int64, limits ...string) map[string]string {
	t.Helper()
	out := maps.Clone(files)
	for _, limit := range limits {
		smaller := regexp.MustCompile(`\d+`).ReplaceAllStringFunc(limit, func(digits string) string {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return strconv.FormatInt(n/factor, 10)
		})
		name, content := edit(t, out, limit, smaller)
		out[name] = content
	}
	return out
}

// checkSecondsLeft demands that a header tells seconds that are left of a minute.
func checkSecondsLeft(t *testing.T, name string, a answer, header string) {
	t.Helper()
	if left := a.number(t, header); left < 1 || left > 60 {
		t.Errorf("%s: %s is %d, want seconds of a minute", name, header, left)
	}
}

// checkSomeIsUsed demands that an answer tells of both metrics a limit, and less that is left of it.
func checkSomeIsUsed(t *testing.T, name string, a answer) {
	t.Helper()
	for _, metric := range []string{"requests", "tokens"} {
		if left, most := a.number(t, "x-ratelimit-remaining-"+metric), a.number(t, "x-ratelimit-limit-"+metric); left < 0 || left >= most {
			t.Errorf("%s: %d of %d %s are left", name, left, most, metric)
		}
	}
}
