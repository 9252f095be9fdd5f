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
	standardKey = "sk-standard-0123456789abcdef"
	partnerKey  = "sk-partner-0123456789abcdef"
	acmeKey     = "sk-partner-acme-0123456789abcdef"
)

// The text models of the document by size: two of each, requests and tokens a minute, and those of partners.
var modelSizes = map[string]struct {
	models                         [2]string
	requests, tokens               int64
	partnerRequests, partnerTokens int64
}{
	"XS": {[2]string{"qwen3-4b", "llama-3.2-3b"}, 500, 1_000_000, 500, 2_000_000},
	"S":  {[2]string{"mistral-31-24b", "venice-uncensored"}, 75, 750_000, 150, 1_500_000},
	"M":  {[2]string{"zai-org-glm-5", "google-gemma-3-27b-it"}, 50, 750_000, 100, 1_500_000},
	"L":  {[2]string{"kimi-k2-thinking", "gemini-3-pro-preview"}, 20, 500_000, 60, 1_000_000},
}

// What is not text, by type: requests a minute, and those of partners. It names none of video for partners.
var modelTypes = map[string][2]int64{
	"images": {20, 60}, "audio": {60, 120}, "embeddings": {500, 500}, "video-queue": {40, 40}, "video-retrieve": {120, 120},
}

// typeEndpoints are those of one of modelTypes.
func typeEndpoints(resource string) []endpoint {
	switch resource {
	case "video-queue":
		return []endpoint{{"/v1/video/queue", "OpenAIImages"}}
	case "video-retrieve":
		return []endpoint{{"/v1/video/retrieve", "OpenAIImages"}}
	}
	return otherEndpoints[resource]
}

func TestModelSizeTiersAdmitExactlyTheirMinute(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "model-size-tiers"))
	for class, size := range modelSizes {
		for key, most := range map[string]int64{standardKey: size.requests, partnerKey: size.partnerRequests} {
			// All ways to ask for a model count together; another model of the size counts apart.
			a := s.checkAdmits(t, class+" "+key, most, turn(key, size.models[0], textEndpoints)...)
			checkSizeHeaders(t, class+" "+key, a)
			other := s.pass(t, chat(key, prompt{model: size.models[1]}))
			if left := other.number(t, "x-ratelimit-remaining-requests"); left != most-1 {
				t.Errorf("%s %s: of another model %d requests are left, want %d", class, key, left, most-1)
			}
		}
	}
}

func TestModelSizeTiersAdmitExactlyTheirMinuteOfOtherTypes(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "model-size-tiers"))
	for resource, most := range modelTypes {
		for i, key := range []string{standardKey, partnerKey} {
			s.checkAdmits(t, resource+" "+key, most[i], turn(key, "a-model", typeEndpoints(resource))...)
		}
	}
	s.checkAdmits(t, "images as agreed", 200, turn(acmeKey, "a-model", otherEndpoints["images"])...)
	s.checkAdmits(t, "a model as agreed", 120, turn(acmeKey, "zai-org-glm-4.7", textEndpoints)...)
}

func TestModelSizeTiersAdmitExactlyTheirTokens(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "model-size-tiers"))
	for class, size := range modelSizes {
		for key, most := range map[string]int64{standardKey: size.tokens, partnerKey: size.partnerTokens} {
			r := reserving(key, size.models[0])
			s.checkTokens(t, class+" "+key, most, most/2, r, r)
		}
	}
	r := reserving(acmeKey, "kimi-k2-thinking")
	s.checkTokens(t, "tokens as agreed", 3_000_000, 1_000_000, r, r)
}

func TestModelSizeTiersServeEveryPath(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "model-size-tiers"))
	all := turn(partnerKey, "qwen3-4b", textEndpoints)
	for resource := range modelTypes {
		all = slices.Concat(all, turn(partnerKey, "a-model", typeEndpoints(resource)))
	}
	all = append(all, request{method: http.MethodGet, path: "/api/v1/video/retrieve?queue_id=1", key: partnerKey})
	s.checkServes(t, all)
	s.checkModelsAreFree(t, standardKey)
	checkSizeHeaders(t, "an answer", s.pass(t, chat(standardKey, prompt{model: "qwen3-4b"})))
}

// The document counts whatever is no success, also what the provider fails to do.
func TestModelSizeTiersBlockWhoFailsTooOften(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "model-size-tiers"))
	s.fail(t, 20, http.StatusServiceUnavailable, chat(standardKey, prompt{model: "qwen3-4b"}, "x-demo-status: 503"))
	s.pass(t, chat(standardKey, prompt{model: "qwen3-4b"}))
	s.fail(t, 1, http.StatusServiceUnavailable, chat(standardKey, prompt{model: "qwen3-4b"}, "x-demo-status: 503"))
	a := s.send(t, chat(standardKey, prompt{model: "qwen3-4b"}))
	const text = "Too many failed attempts (> 20) resulting in a non-success status code. Please wait %ss and try again."
	if wait := a.header.Get("Retry-After"); !a.blocked() || !strings.Contains(a.body, fmt.Sprintf(text, wait)) || a.number(t, "Retry-After") > 30 {
		t.Errorf("%d, Retry-After %s: %s", a.status, wait, a.body)
	}
	s.pass(t, chat(partnerKey, prompt{model: "qwen3-4b"}))
}

// checkSizeHeaders demands the document's headers: requests reset at a Unix time, tokens in some seconds.
func checkSizeHeaders(t *testing.T, name string, a answer) {
	t.Helper()
	now := time.Now().Unix()
	if reset := a.number(t, "x-ratelimit-reset-requests"); reset%60 != 0 || reset <= now-5 || reset > now+60 {
		t.Errorf("%s: requests reset at %d, now is %d", name, reset, now)
	}
	checkSecondsLeft(t, name, a, "x-ratelimit-reset-tokens")
	checkSomeIsUsed(t, name, a)
}
