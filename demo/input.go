package demo

import (
	"bytes"
	"encoding/json"
)

const bytesPerToken = 4

// inputTokens says what texts of so many bytes cost.
func inputTokens(bytes textSize) int {
	return max(1, (int(bytes)+bytesPerToken-1)/bytesPerToken)
}

// optionalTokens says what a text costs that may be left out.
func optionalTokens(text string) int {
	if text == "" {
		return 0
	}
	return inputTokens(textSize(len(text)))
}

// A textSize is the bytes of text in what a request sends as content: a string, or parts of which some hold text and
// some (a message, the result of a tool) hold content again.
type textSize int

// UnmarshalJSON takes all that a provider takes as content; what holds no text counts nothing.
func (t *textSize) UnmarshalJSON(data []byte) error {
	var plain string
	if json.Unmarshal(data, &plain) == nil { // also null
		*t = textSize(len(plain))
		return nil
	}
	if data[0] == '{' {
		data = bytes.Join([][]byte{{'['}, data, {']'}}, nil)
	}
	var parts []struct {
		Text    string   `json:"text"`
		Content textSize `json:"content"`
		Output  textSize `json:"output"` // of a tool, in Responses
		Parts   textSize `json:"parts"`  // Gemini's content
	}
	if json.Unmarshal(data, &parts) != nil {
		return badRequest("content", "content: must be a string or a list of parts")
	}
	*t = 0
	for _, p := range parts {
		*t += textSize(len(p.Text)) + p.Content + p.Output + p.Parts
	}
	return nil
}

// A textList is what to embed or to complete, each as its JSON, and what all of it costs. It has no items if it was
// something else.
type textList struct {
	items  []json.RawMessage
	tokens int
}

// UnmarshalJSON takes a text, a list of texts, a list of tokens or a list of such lists.
func (l *textList) UnmarshalJSON(data []byte) error {
	*l = textList{}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) != nil || len(list) > 0 && !bytes.ContainsAny(list[0][:1], `"[`) {
		list = []json.RawMessage{bytes.Clone(data)}
	}
	var size textSize
	tokens := 0
	for _, item := range list {
		var s string
		var ids []int
		switch {
		case item[0] == '"' && json.Unmarshal(item, &s) == nil:
			size += textSize(len(s))
		case item[0] == '[' && json.Unmarshal(item, &ids) == nil:
			tokens += len(ids)
		default:
			return nil
		}
	}
	if size > 0 {
		tokens += inputTokens(size)
	}
	*l = textList{list, max(1, tokens)}
	return nil
}
