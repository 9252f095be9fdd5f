package demo

import (
	"fmt"
	"net/http"
)

// openAIUsage is the field of chat and of completions, with the comma before it.
func openAIUsage(j *job) string {
	return fmt.Sprintf(`,"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":%d,`+
		`"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		j.input, j.spent(), j.input+j.spent(), j.cached, j.reasoning*j.n)
}

// openAIError is the body of an OpenAI error. The identifier of the request stands in a header only.
func openAIError(p *problem, _ string) string {
	kind, code := "invalid_request_error", p.code
	switch {
	case p.status == http.StatusTooManyRequests:
		kind = "requests"
	case p.status >= http.StatusInternalServerError:
		kind = "server_error"
	}
	if code == "" {
		code = map[int]string{
			http.StatusUnauthorized:    "invalid_api_key",
			http.StatusNotFound:        "model_not_found",
			http.StatusTooManyRequests: "rate_limit_exceeded",
		}[p.status]
	}
	return fmt.Sprintf(`{"error":{"message":%s,"type":"%s","param":%s,"code":%s}}`,
		asJSON(p.message), kind, orNull(p.param), orNull(code))
}
