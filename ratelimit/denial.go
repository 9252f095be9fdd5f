package ratelimit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A denial is one kind of refusal: what a client is told. The message may have a place for seconds.
type denial struct {
	status        int
	kind          string // error.type in OpenAI's shape
	anthropicKind string // error.type in Anthropic's shape
	code          string // error.code in OpenAI's shape
	message       string
}

// The denials for reasons other than limits. This table and limitDenials are all that clients are told.
var (
	missingKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "missing_api_key",
		"No API key was given. Send your key as this API's documentation says, for example in the header Authorization: Bearer KEY.",
	}
	unknownKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "invalid_api_key",
		"The API key is not valid. Check that it is complete and was not revoked.",
	}
	conflictingKeys = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "conflicting_api_keys",
		"The request carries different API keys. Send one key, once.",
	}
	foreignKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "invalid_api_key",
		"The API key is not valid for this gateway.",
	}
	suspendedKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "api_key_suspended",
		"The API key is suspended.",
	}
	expiredKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "api_key_expired",
		"The API key has expired.",
	}
	pendingKey = denial{
		http.StatusUnauthorized, "authentication_error", "authentication_error", "api_key_pending",
		"The API key is not active yet: its quota has not been accepted.",
	}
	badModel = denial{
		http.StatusBadRequest, "invalid_request_error", "invalid_request_error", "invalid_model",
		"The request must name a model, in at most " + strconv.Itoa(policy.MaxModelLength) + " bytes, without control characters or white space around it.",
	}
	unknownModel = denial{
		http.StatusNotFound, "invalid_request_error", "not_found_error", "model_not_found",
		"This gateway does not serve the model that the request names. Check its spelling.",
	}
	tooManyLimits = denial{
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "too_many_limits",
		"More limits hold for this request than can be counted; the operator of this API must remove some. Please retry after %d seconds.",
	}
	storeOut = denial{
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "rate_limit_store_unavailable",
		"Requests cannot be counted at the moment. Please retry after %d seconds.",
	}
	notReady = denial{
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "rate_limiter_not_ready",
		"Rate limiting is not ready. Please retry after %d seconds.",
	}
)

// limitDenials are the denials for a limit that a request does not fit, by the status that the limit names.
var limitDenials = map[int]denial{
	http.StatusTooManyRequests: {
		http.StatusTooManyRequests, "rate_limit_error", "rate_limit_error", "rate_limit_exceeded",
		"Rate limit exceeded. Please retry after %d seconds.",
	},
	http.StatusPaymentRequired: {
		http.StatusPaymentRequired, "payment_required", "billing_error", "quota_exceeded",
		"Quota exceeded. Upgrade your plan or retry after %d seconds.",
	},
	http.StatusForbidden: {
		http.StatusForbidden, "permission_error", "permission_error", "limit_exceeded",
		"Limit exceeded. It resets in %d seconds.",
	},
	http.StatusServiceUnavailable: {
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "capacity_exceeded",
		"Capacity exceeded. Please retry after %d seconds.",
	},
}

var concurrencyDenial = denial{
	http.StatusTooManyRequests, "rate_limit_error", "rate_limit_error", "concurrency_limit_exceeded",
	"Too many requests at once. Please retry after %d seconds.",
}

// capacityDenials are the denials of requests for a model that is at its capacity.
var capacityDenials = map[outcome]denial{ //nolint:exhaustive // Who is served, or gone, is told nothing.
	refused: {
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "capacity_exceeded",
		"The model is at its capacity. Please retry after %d seconds.",
	},
	full: {
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "queue_full",
		"The model is at its capacity and too many requests wait for it. Please retry after %d seconds.",
	},
	timedOut: {
		http.StatusServiceUnavailable, "service_unavailable", "overloaded_error", "queue_timeout",
		"The model is at its capacity and the request has waited as long as it may. Please retry after %d seconds.",
	},
}

const (
	retryConcurrency = 1  // seconds after which a slot may be free
	retryService     = 2  // seconds after which the service may be ready
	longWait         = 60 // seconds above which a client should not retry by itself
)

// refuse words a denial that no limit is the reason of.
func refuse(g *policy.Gateway, r *descriptor.Reserve, now time.Time, d denial) Decision {
	wait := int64(0)
	if d.status == http.StatusServiceUnavailable {
		wait = retryService
	}
	report := report{gateway: g, resource: r.Resource, now: now}
	return d.decide(report.headers(nil), r.Protocol, wait, false)
}

// decide words the denial. A wait of 0 means that waiting does not help and nobody is told to.
func (d *denial) decide(told *headers, p descriptor.Protocol, wait int64, pointless bool) Decision {
	if wait > 0 {
		told.addNumber("Retry-After", wait)
		if pointless || wait > longWait {
			told.addText("x-should-retry", "false")
		}
	}
	return Decision{Status: d.status, headers: told, Body: d.body(p, wait)}
}

func (d *denial) body(p descriptor.Protocol, wait int64) string {
	message := d.message
	if wait > 0 {
		message = fmt.Sprintf(message, wait)
	}
	var body any
	switch p {
	case descriptor.ProtocolAnthropic:
		body = anthropicError{"error", anthropicErrorDetail{d.anthropicKind, message}}
	case descriptor.ProtocolGemini:
		body = googleError{googleErrorDetail{d.status, message, descriptor.GoogleStatuses[d.status]}}
	default:
		body = openAIError{openAIErrorDetail{d.kind, message, d.code}}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // People read it.
	if err := e.Encode(body); err != nil {
		panic(err) // Strings can always be written.
	}
	return strings.TrimSuffix(b.String(), "\n")
}

type openAIError struct {
	Error openAIErrorDetail `json:"error"`
}

type openAIErrorDetail struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Code    string `json:"code"`
}

type anthropicError struct {
	Type  string               `json:"type"`
	Error anthropicErrorDetail `json:"error"`
}

type anthropicErrorDetail struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

type googleError struct {
	Error googleErrorDetail `json:"error"`
}

type googleErrorDetail struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Status  string `json:"status"`
}
