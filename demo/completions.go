package demo

import (
	"fmt"
	"strings"
)

type completionRequest struct {
	Model         string   `json:"model"`
	Prompt        textList `json:"prompt"`
	Stream        bool     `json:"stream"`
	N             *int     `json:"n"`
	MaxTokens     *int     `json:"max_tokens"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func completions(x *exchange) error {
	var q completionRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	prompts := len(q.Prompt.items)
	if prompts == 0 {
		return badRequest("prompt", "prompt: must be a string, tokens, or a list of either")
	}
	if q.N != nil {
		prompts *= max(0, min(*q.N, mostChoices+1)) // each prompt has its own choices
	}
	j, err := x.job(demand{
		model: q.Model, stream: q.Stream, input: q.Prompt.tokens, choices: number{"n", &prompts},
		maxima: []number{{"max_tokens", q.MaxTokens}},
	})
	switch {
	case err != nil:
		return err
	case q.Stream:
		return completionChunks(j, q.StreamOptions.IncludeUsage && !x.switches.noUsage)
	}
	choices := make([]string, j.n)
	for i := range choices {
		choices[i] = completionChoice(i, j.text(), asJSON(j.ended("stop", "length")))
	}
	usage := ""
	if !x.switches.noUsage {
		usage = openAIUsage(j)
	}
	return x.json(completionObject(j, strings.Join(choices, ","), usage))
}

// completionObject is an answer or a chunk of one; usage is its last field, with the comma before it, or empty.
func completionObject(j *job, choices, usage string) string {
	return fmt.Sprintf(`{"id":"cmpl-%024d","object":"text_completion","created":%d,"model":%s,"choices":[%s]%s}`,
		j.sequence, j.created(), asJSON(j.model), choices, usage)
}

func completionChoice(index int, text, finish string) string {
	return fmt.Sprintf(`{"text":%s,"index":%d,"logprobs":null,"finish_reason":%s}`, asJSON(text), index, finish)
}

func completionChunks(j *job, reports bool) error {
	usage := ""
	if reports {
		usage = `,"usage":null` // in every chunk but the last
	}
	chunk := func(choice int, text, finish string) event {
		return event{data: completionObject(j, completionChoice(choice, text, finish), usage)}
	}
	var after []event
	for i := range j.n {
		after = append(after, chunk(i, "", asJSON(j.ended("stop", "length"))))
	}
	if reports {
		after = append(after, event{data: completionObject(j, "", openAIUsage(j))})
	}
	return j.events(nil, func(choice int, word string) event {
		return chunk(choice, word, "null")
	}, append(after, event{data: "[DONE]"}))
}
