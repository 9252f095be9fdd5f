package demo

import (
	"fmt"
	"net/http"
)

func messages(x *exchange, body []byte) error {
	j, err := x.job(body)
	if err != nil {
		return err
	}
	j.choices = 1 // the protocol knows no other number
	stop := `"end_turn"`
	if j.cut {
		stop = `"max_tokens"`
	}
	if j.Stream {
		return messageEvents(j, stop)
	}
	content := fmt.Sprintf(`{"type":"text","text":%s}`, asJSON(j.text()))
	return j.completion(messageObject(j, content, stop, j.output), j.output)
}

// messageObject is an answer, or the beginning of one, that has cost so many tokens yet.
func messageObject(j *job, content, stop string, output int) string {
	usage := ""
	if !j.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,`+
			`"output_tokens":%d,"service_tier":"standard"}`, j.input, output)
	}
	return fmt.Sprintf(`{"id":"msg_%024d","type":"message","role":"assistant","model":%s,"content":[%s],`+
		`"stop_reason":%s,"stop_sequence":null%s}`, j.sequence, asJSON(j.Model), content, stop, usage)
}

func messageEvents(j *job, stop string) error {
	// An event's name is also its type; fields begin with the comma after that.
	send := func(name, fields string) error { return j.event(name, `{"type":"`+name+`"`+fields+`}`) }
	usage := ""
	if !j.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"output_tokens":%d}`, j.output)
	}
	j.stream()
	// The real API, too, says 1 token of output before there is any.
	if err := send("message_start", `,"message":`+messageObject(j, "", "null", 1)); err != nil {
		return err
	}
	if err := send("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`); err != nil {
		return err
	}
	if err := send("ping", ""); err != nil {
		return err
	}
	err := j.tokens(j.output, 1, func(_ int, word string) error {
		return send("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":`+asJSON(word)+`}`)
	})
	if err != nil {
		return err
	}
	if err := send("content_block_stop", `,"index":0`); err != nil {
		return err
	}
	if err := send("message_delta", `,"delta":{"stop_reason":`+stop+`,"stop_sequence":null}`+usage); err != nil {
		return err
	}
	return send("message_stop", "")
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
