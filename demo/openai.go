package demo

import (
	"fmt"
	"net/http"
	"strings"
)

func chat(x *exchange, body []byte) error {
	j, err := x.job(body)
	if err != nil {
		return err
	}
	finish := "stop"
	if j.cut {
		finish = "length"
	}
	if j.Stream {
		return chatChunks(j, finish)
	}
	choices := make([]string, j.choices)
	for i := range choices {
		choices[i] = fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":%s,"refusal":null,"annotations":[]},`+
			`"logprobs":null,"finish_reason":"%s"}`, i, asJSON(j.text()), finish)
	}
	usage := ""
	if !j.switches.noUsage {
		usage = chatUsage(j)
	}
	return j.completion(chatObject(j, "chat.completion", strings.Join(choices, ","), usage), j.output*j.choices)
}

// chatObject is an answer or a chunk of one; usage is its last field, with the comma before it, or empty.
func chatObject(j *job, kind, choices, usage string) string {
	return fmt.Sprintf(`{"id":"chatcmpl-%024d","object":"%s","created":%d,"model":%s,"service_tier":"default",`+
		`"system_fingerprint":"fp_demo000000","choices":[%s]%s}`,
		j.sequence, kind, j.record.Started.Unix(), asJSON(j.Model), choices, usage)
}

func chatUsage(j *job) string {
	output := j.output * j.choices
	return fmt.Sprintf(`,"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,`+
		`"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`, j.input, output, j.input+output)
}

func chatChunks(j *job, finish string) error {
	reports := j.StreamOptions.IncludeUsage && !j.switches.noUsage
	usage := ""
	if reports {
		usage = `,"usage":null` // in every chunk but the last
	}
	send := func(choice int, delta, finish string) error {
		c := fmt.Sprintf(`{"index":%d,"delta":{%s},"logprobs":null,"finish_reason":%s}`, choice, delta, finish)
		return j.event("", chatObject(j, "chat.completion.chunk", c, usage))
	}
	j.stream()
	for i := range j.choices {
		if err := send(i, `"role":"assistant","content":"","refusal":null`, "null"); err != nil {
			return err
		}
	}
	err := j.tokens(j.output, j.choices, func(choice int, word string) error {
		return send(choice, `"content":`+asJSON(word), "null")
	})
	if err != nil {
		return err
	}
	for i := range j.choices {
		if err := send(i, "", asJSON(finish)); err != nil {
			return err
		}
	}
	if reports {
		if err := j.event("", chatObject(j, "chat.completion.chunk", "", chatUsage(j))); err != nil {
			return err
		}
	}
	return j.event("", "[DONE]")
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
