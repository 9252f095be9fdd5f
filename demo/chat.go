package demo

import (
	"fmt"
	"strings"
)

type chatRequest struct {
	Model               string    `json:"model"`
	Messages            []message `json:"messages"`
	Stream              bool      `json:"stream"`
	N                   *int      `json:"n"`
	MaxTokens           *int      `json:"max_tokens"`
	MaxCompletionTokens *int      `json:"max_completion_tokens"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

type message struct {
	Content textSize `json:"content"`
}

func sizeOf(messages []message) (size textSize) {
	for _, m := range messages {
		size += m.Content
	}
	return size
}

var errNoMessages = badRequest("messages", "messages: at least one message is required")

func chat(x *exchange) error {
	var q chatRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	if len(q.Messages) == 0 {
		return errNoMessages
	}
	j, err := x.job(demand{
		model: q.Model, stream: q.Stream, input: inputTokens(sizeOf(q.Messages)), choices: number{"n", q.N},
		maxima: []number{{"max_tokens", q.MaxTokens}, {"max_completion_tokens", q.MaxCompletionTokens}},
	})
	switch {
	case err != nil:
		return err
	case q.Stream:
		return chatChunks(j, q.StreamOptions.IncludeUsage && !x.switches.noUsage)
	}
	choices := make([]string, j.n)
	for i := range choices {
		choices[i] = fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":%s,"refusal":null,"annotations":[]},`+
			`"logprobs":null,"finish_reason":"%s"}`, i, asJSON(j.text()), j.ended("stop", "length"))
	}
	usage := ""
	if !x.switches.noUsage {
		usage = openAIUsage(j)
	}
	return x.json(chatObject(j, "chat.completion", strings.Join(choices, ","), usage))
}

// chatObject is an answer or a chunk of one; usage is its last field, with the comma before it, or empty.
func chatObject(j *job, kind, choices, usage string) string {
	return fmt.Sprintf(`{"id":"chatcmpl-%024d","object":"%s","created":%d,"model":%s,"service_tier":"default",`+
		`"system_fingerprint":"fp_demo000000","choices":[%s]%s}`,
		j.sequence, kind, j.created(), asJSON(j.model), choices, usage)
}

func chatChunks(j *job, reports bool) error {
	usage := ""
	if reports {
		usage = `,"usage":null` // in every chunk but the last
	}
	chunk := func(choice int, delta, finish string) event {
		c := fmt.Sprintf(`{"index":%d,"delta":{%s},"logprobs":null,"finish_reason":%s}`, choice, delta, finish)
		return event{data: chatObject(j, "chat.completion.chunk", c, usage)}
	}
	var before, after []event
	for i := range j.n {
		before = append(before, chunk(i, `"role":"assistant","content":"","refusal":null`, "null"))
		after = append(after, chunk(i, "", asJSON(j.ended("stop", "length"))))
	}
	if reports {
		after = append(after, event{data: chatObject(j, "chat.completion.chunk", "", openAIUsage(j))})
	}
	return j.events(before, func(choice int, word string) event {
		return chunk(choice, `"content":`+asJSON(word), "null")
	}, append(after, event{data: "[DONE]"}))
}
