package envoy_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// served are the APIs of each library that the gateway serves, and what comes with so many tokens of output.
var served = map[string]map[string]func(tokens int64) sdkAnswer{
	"openai": {
		"chat":                 whole,
		"chat stream":          streamed,
		"completions":          whole,
		"completions stream":   streamed,
		"responses":            whole,
		"responses stream":     streamed,
		"embeddings":           func(int64) sdkAnswer { return sdkAnswer{Count: 2, Size: 16} },
		"images":               func(int64) sdkAnswer { return sdkAnswer{Count: 2} },
		"image edit":           func(int64) sdkAnswer { return sdkAnswer{Count: 1} },
		"transcription":        whole,
		"transcription stream": streamed,
	},
	"anthropic": {
		"messages":        whole,
		"messages stream": streamed,
	},
}

func whole(tokens int64) sdkAnswer { return sdkAnswer{Text: words(tokens)} }

func streamed(tokens int64) sdkAnswer { return sdkAnswer{Text: words(tokens), Pieces: tokens} }

// words describes a text: the demo upstream makes each token one word.
func words(n int64) string { return strconv.FormatInt(n, 10) + " words" }

func TestSDKsReadEveryAnswer(t *testing.T) {
	t.Parallel()
	s := startForSDKs(t, manifests(everyProtocol, tier("free"), holder("free", "free", "key-free")))
	eachSDK(t, func(t *testing.T, k sdk) {
		var calls []sdkCall
		for api := range served[k.library] {
			calls = append(calls, sdkCall{API: api, Key: "key-free", Model: k.name() + " " + api, Text: "How are you?"})
		}
		for i, got := range newTap(t, s).make(t, k, calls...) {
			api := calls[i].API
			got.checkTries(t, api, http.StatusOK)
			if got.Error.Status != 0 {
				t.Errorf("%s: the library threw %+v", api, got.Error)
				continue
			}
			sent := s.upstream(t, calls[i].Model)
			want := served[k.library][api](sent.OutputTokens)
			want.Input, want.Output = sent.InputTokens, sent.OutputTokens
			if text := got.Answer.Text; text != "" {
				got.Answer.Text = words(int64(len(strings.Fields(text))))
			}
			if diff := cmp.Diff(want, got.Answer); diff != "" {
				t.Errorf("%s: answer (-want +got):\n%s", api, diff)
			}
		}
	})
}

// plain is the API of each library in which a test asks when it does not matter what for, and its streaming form.
var plain = map[string][2]string{"openai": {"chat", "chat stream"}, "anthropic": {"messages", "messages stream"}}

// A refusal is a way in which a request is refused, and what the caller is told then.
type refusal struct {
	change        func(c *sdkCall) // makes a call that passes one that is refused
	want          sdkError         // of an OpenAI library; N stands for the seconds to wait
	anthropicType string
}

var refusals = map[string]refusal{
	"key that nobody holds": {
		func(c *sdkCall) { c.Key = "nobody" },
		sdkError{Status: 401, Type: "authentication_error", Code: "invalid_api_key", Message: "The API key is not valid. Check that it is complete and was not revoked."},
		"authentication_error",
	},
	"no model": {
		func(c *sdkCall) { c.Model = "" },
		sdkError{Status: 400, Type: "invalid_request_error", Code: "invalid_model", Message: "The request must name a model, in at most 253 bytes, without control characters or white space around it."},
		"invalid_request_error",
	},
	"model that is not served": {
		func(c *sdkCall) { c.Model = "other" },
		sdkError{Status: 404, Type: "invalid_request_error", Code: "model_not_found", Message: "This gateway does not serve the model that the request names. Check its spelling."},
		"not_found_error",
	},
	"path that is not served": {
		func(c *sdkCall) { c.API = "model" },
		sdkError{Status: 404, Type: "invalid_request_error", Code: "unknown_url", Message: "This gateway serves no such path and method."},
		"invalid_request_error", // where there is no route there is no protocol, so it has OpenAI's shape
	},
	"body that is too large": {
		func(c *sdkCall) { c.Text = strings.Repeat("word ", 20000) },
		sdkError{Status: 413, Type: "invalid_request_error", Code: "request_too_large", Message: "The request body is larger than this gateway accepts."},
		"request_too_large",
	},
	"PaymentRequired": {
		func(c *sdkCall) { c.Key = "key-paymentrequired" },
		sdkError{Status: 402, Type: "payment_required", Code: "quota_exceeded", Message: "Quota exceeded. Upgrade your plan or retry after N seconds.", RetryAfter: "N"},
		"billing_error",
	},
	"Forbidden": {
		func(c *sdkCall) { c.Key = "key-forbidden" },
		sdkError{Status: 403, Type: "permission_error", Code: "limit_exceeded", Message: "Limit exceeded. It resets in N seconds.", RetryAfter: "N"},
		"permission_error",
	},
	"TooManyRequests": {
		func(c *sdkCall) { c.Key = "key-toomanyrequests" },
		sdkError{Status: 429, Type: "rate_limit_error", Code: "rate_limit_exceeded", Message: "Rate limit exceeded. Please retry after N seconds.", RetryAfter: "N"},
		"rate_limit_error",
	},
	"ServiceUnavailable": {
		func(c *sdkCall) { c.Key = "key-serviceunavailable" },
		sdkError{Status: 503, Type: "service_unavailable", Code: "capacity_exceeded", Message: "Capacity exceeded. Please retry after N seconds.", RetryAfter: "N"},
		"overloaded_error",
	},
}

// class is the name of the exception that a library has for a status.
func (k sdk) class(status int) string {
	own := map[string]map[int]string{
		"Python-openai":    {402: "APIStatusError", 413: "APIStatusError", 503: "InternalServerError"},
		"Node-openai":      {402: "APIError", 413: "APIError", 503: "InternalServerError"},
		"Python-anthropic": {402: "PaymentRequiredError", 413: "ContentTooLargeError", 503: "ServiceUnavailableError"},
		"Node-anthropic":   {402: "PaymentRequiredError", 413: "ContentTooLargeError", 503: "ServiceUnavailableError"},
	}
	if class, ok := own[k.name()][status]; ok {
		return class
	}
	return map[int]string{
		400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 429: "RateLimitError",
	}[status]
}

const someModel = `
apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: some}
spec: {models: [some]}
`

func TestSDKsThrowWhatIsMeantAtOnce(t *testing.T) {
	t.Parallel()
	docs := []string{gateway + "  unknownModels: {action: Deny}\n", someModel, tier("free"), holder("free", "free", "key-free")}
	for _, exceeded := range []string{"PaymentRequired", "Forbidden", "TooManyRequests", "ServiceUnavailable"} {
		name := strings.ToLower(exceeded)
		docs = append(docs, tier(name, "{metric: Requests, per: Day, max: 0, exceeded: "+exceeded+"}"), holder(name, name, "key-"+name))
	}
	s := startForSDKs(t, manifests(docs...))
	eachSDK(t, func(t *testing.T, k sdk) {
		var names []string
		var calls []sdkCall
		for name, r := range refusals {
			for _, api := range plain[k.library] {
				c := sdkCall{API: api, Key: "key-free", Model: "some", Text: "Hello"}
				r.change(&c)
				names, calls = append(names, name+", "+api), append(calls, c)
			}
		}
		for i, got := range newTap(t, s).make(t, k, calls...) {
			name, _, _ := strings.Cut(names[i], ",")
			want := refusals[name].want
			want.Class = k.class(want.Status)
			if k.library == "anthropic" {
				want.Type, want.Code = refusals[name].anthropicType, ""
			}
			checkThrown(t, names[i], want, got)
			got.checkTries(t, names[i], want.Status)
		}
	})
}

// checkThrown compares exceptions, with N for the seconds to wait where the message says the same of them as Retry-After.
func checkThrown(t *testing.T, name string, want sdkError, got sdkResult) {
	t.Helper()
	e := got.Error
	if n, err := strconv.Atoi(e.RetryAfter); err == nil && n > 0 {
		e.Message = strings.Replace(e.Message, e.RetryAfter+" seconds", "N seconds", 1)
		e.RetryAfter = "N"
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("%s: exception (-want +got):\n%s", name, diff)
	}
}
