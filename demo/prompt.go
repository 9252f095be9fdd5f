package demo

import (
	"encoding/json"
	"strings"
)

const (
	bytesPerToken = 4
	defaultTokens = 32
	mostTokens    = 1_000_000
	mostChoices   = 128 // OpenAI's API reference
)

// A prompt is what matters here of a request to either protocol for a conversation to be continued.
type prompt struct {
	Model               string    `json:"model"`
	System              textSize  `json:"system"`
	Messages            []message `json:"messages"`
	Stream              bool      `json:"stream"`
	N                   *int      `json:"n"`
	MaxTokens           *int      `json:"max_tokens"`
	MaxCompletionTokens *int      `json:"max_completion_tokens"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func (p *prompt) check() error {
	switch {
	case p.Model == "":
		return badRequest("model", "model: you must provide a model parameter")
	case len(p.Messages) == 0:
		return badRequest("messages", "messages: at least one message is required")
	case p.MaxTokens != nil && *p.MaxTokens < 1:
		return badRequest("max_tokens", "max_tokens: must be at least 1")
	case p.MaxCompletionTokens != nil && *p.MaxCompletionTokens < 1:
		return badRequest("max_completion_tokens", "max_completion_tokens: must be at least 1")
	case p.N != nil && (*p.N < 1 || *p.N > mostChoices):
		return badRequest("n", "n: must be from 1 to %d", mostChoices)
	}
	return nil
}

// A job is a prompt with the size of its answer decided.
type job struct {
	*exchange
	prompt
	input   int
	output  int  // of each choice
	cut     bool // by a maximum of the prompt's
	choices int
}

func (x *exchange) job(body []byte) (*job, error) {
	j := &job{exchange: x, output: defaultTokens, choices: 1}
	if err := decode(body, &j.prompt); err != nil {
		return nil, err
	}
	if err := j.check(); err != nil {
		return nil, err
	}
	if x.switches.tokens != nil {
		j.output = *x.switches.tokens
	}
	for _, m := range []*int{j.MaxTokens, j.MaxCompletionTokens} {
		if m != nil && *m < j.output {
			j.output, j.cut = *m, true
		}
	}
	if j.N != nil {
		j.choices = *j.N
	}
	if j.output*j.choices > mostTokens {
		return nil, badRequest("n", "n: the demo upstream makes at most %d tokens in all choices together", mostTokens)
	}
	size := j.System
	for _, m := range j.Messages {
		size += m.Content
	}
	j.input = inputTokens(int(size))
	x.understood(j.Model, j.Stream, j.input)
	return j, nil
}

// inputTokens says what texts of so many bytes cost.
func inputTokens(bytes int) int { return max(1, (bytes+bytesPerToken-1)/bytesPerToken) }

type message struct {
	Content textSize `json:"content"`
}

// A textSize is the bytes of text in the content of a message: a string, or a list of parts of which some hold text
// and some (the result of a tool) hold content again.
type textSize int

// UnmarshalJSON takes all that a provider takes as content; what holds no text counts nothing.
func (t *textSize) UnmarshalJSON(data []byte) error {
	var plain string
	if json.Unmarshal(data, &plain) == nil { // also null
		*t = textSize(len(plain))
		return nil
	}
	var parts []struct {
		Text    string   `json:"text"`
		Content textSize `json:"content"`
	}
	if json.Unmarshal(data, &parts) != nil {
		return badRequest("content", "content: must be a string or a list of parts")
	}
	*t = 0
	for _, p := range parts {
		*t += textSize(len(p.Text)) + p.Content
	}
	return nil
}

// Three letters each: with the space a token is 4 bytes of text.
var words = strings.Fields("the old man and his dog sat out all day one fox ran off for fun two big red " +
	"ant dug our own hot mud who can say why not yet but she did ask how far you are")

// word is the i-th token of every answer; like a real one it brings the space before it.
func word(i int) string {
	if i == 0 {
		return words[0]
	}
	return " " + words[i%len(words)]
}

// text is all words of one choice.
func (j *job) text() string {
	var b strings.Builder
	for i := range j.output {
		b.WriteString(word(i))
	}
	return b.String()
}
