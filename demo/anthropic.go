package demo

import (
	"fmt"
	"net/http"
)

type messagesRequest struct {
	Model     string    `json:"model"`
	System    textSize  `json:"system"`
	Messages  []message `json:"messages"`
	Stream    bool      `json:"stream"`
	MaxTokens *int      `json:"max_tokens"`
}

func messages(x *exchange) error {
	var q messagesRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	if len(q.Messages) == 0 {
		return errNoMessages
	}
	j, err := x.job(demand{
		model: q.Model, stream: q.Stream, input: inputTokens(q.System + sizeOf(q.Messages)),
		maxima: []number{{"max_tokens", q.MaxTokens}},
	})
	switch {
	case err != nil:
		return err
	case q.Stream:
		return messageEvents(j)
	}
	content := fmt.Sprintf(`{"type":"text","text":%s}`, asJSON(j.text()))
	return x.json(messageObject(j, content, asJSON(j.ended("end_turn", "max_tokens")), j.spent()))
}

// messageTokens counts what a message would cost; that itself costs nothing.
func messageTokens(x *exchange) error {
	var q messagesRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	x.understood(q.Model, false, cost{})
	return x.json(fmt.Sprintf(`{"input_tokens":%d}`, inputTokens(q.System+sizeOf(q.Messages))))
}

// messageObject is an answer, or the beginning of one, that has cost so many tokens yet.
func messageObject(j *job, content, stop string, output int) string {
	usage := ""
	if !j.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,`+
			`"output_tokens":%d,"service_tier":"standard"}`, j.input-j.cached, j.cached, output)
	}
	return fmt.Sprintf(`{"id":"msg_%024d","type":"message","role":"assistant","model":%s,"content":[%s],`+
		`"stop_reason":%s,"stop_sequence":null%s}`, j.sequence, asJSON(j.model), content, stop, usage)
}

func messageEvents(j *job) error {
	usage := ""
	if !j.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"output_tokens":%d}`, j.spent())
	}
	return j.events([]event{
		// The real API, too, says 1 token of output before there is any.
		typed("message_start", `,"message":`+messageObject(j, "", "null", 1)),
		typed("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`),
		typed("ping", ""),
	}, func(_ int, word string) event {
		return typed("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":`+asJSON(word)+`}`)
	}, []event{
		typed("content_block_stop", `,"index":0`),
		typed("message_delta", `,"delta":{"stop_reason":`+asJSON(j.ended("end_turn", "max_tokens"))+`,"stop_sequence":null}`+usage),
		typed("message_stop", ""),
	})
}

// anthropicError is the body of an Anthropic error.
func anthropicError(p *problem, requestID string) string {
	kind, known := map[int]string{
		http.StatusUnauthorized:          "authentication_error",
		http.StatusPaymentRequired:       "billing_error",
		http.StatusForbidden:             "permission_error",
		http.StatusNotFound:              "not_found_error",
		http.StatusRequestEntityTooLarge: "request_too_large",
		http.StatusTooManyRequests:       "rate_limit_error",
		http.StatusGatewayTimeout:        "timeout_error",
		529:                              "overloaded_error",
	}[p.status]
	switch {
	case known:
	case p.status >= http.StatusInternalServerError:
		kind = "api_error"
	default:
		kind = "invalid_request_error"
	}
	return fmt.Sprintf(`{"type":"error","error":{"type":"%s","message":%s},"request_id":%s}`,
		kind, asJSON(p.message), asJSON(requestID))
}
