package demo

import (
	"fmt"
	"strconv"
)

type responsesRequest struct {
	Model           string   `json:"model"`
	Instructions    textSize `json:"instructions"`
	Input           textSize `json:"input"`
	Stream          bool     `json:"stream"`
	MaxOutputTokens *int     `json:"max_output_tokens"`
}

func responses(x *exchange) error {
	var q responsesRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	j, err := x.job(demand{
		model: q.Model, stream: q.Stream, input: inputTokens(q.Instructions + q.Input),
		maxima: []number{{"max_output_tokens", q.MaxOutputTokens}},
	})
	switch {
	case err != nil:
		return err
	case q.Stream:
		return responseEvents(j)
	}
	status := j.ended("completed", "incomplete")
	return x.json(responseObject(j, status, responseItem(j, status, responsePart(j.text())), responseUsage(j)))
}

// responseObject is an answer, or the beginning of one; usage is its last field, with the comma before it, or empty.
func responseObject(j *job, status, items, usage string) string {
	details, limit := "null", "null"
	if status == "incomplete" {
		details = `{"reason":"max_output_tokens"}`
	}
	if m := j.maxima[0].value; m != nil {
		limit = strconv.Itoa(*m)
	}
	return fmt.Sprintf(`{"id":"resp_%024d","object":"response","created_at":%d,"status":"%s","background":false,"error":null,`+
		`"incomplete_details":%s,"instructions":null,"max_output_tokens":%s,"model":%s,"output":[%s],"parallel_tool_calls":true,`+
		`"previous_response_id":null,"reasoning":{"effort":null,"summary":null},"service_tier":"default","store":true,`+
		`"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,`+
		`"truncation":"disabled","user":null,"metadata":{}%s}`,
		j.sequence, j.created(), status, details, limit, asJSON(j.model), items, usage)
}

// responseItem is the message among the output of an answer.
func responseItem(j *job, status, part string) string {
	return fmt.Sprintf(`{"id":"msg_%024d","type":"message","status":"%s","role":"assistant","content":[%s]}`, j.sequence, status, part)
}

func responsePart(text string) string {
	return `{"type":"output_text","annotations":[],"logprobs":[],"text":` + asJSON(text) + `}`
}

func responseUsage(j *job) string {
	if j.switches.noUsage {
		return ""
	}
	return fmt.Sprintf(`,"usage":{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d,"cache_write_tokens":0},`+
		`"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`,
		j.input, j.cached, j.spent(), j.reasoning, j.input+j.spent())
}

func responseEvents(j *job) error {
	at := func(number int, name, fields string) event {
		return typed(name, fmt.Sprintf(`,"sequence_number":%d%s`, number, fields))
	}
	begun := `,"response":` + responseObject(j, "in_progress", "", "")
	inItem := fmt.Sprintf(`,"item_id":"msg_%024d","output_index":0,"content_index":0`, j.sequence)
	status, text := j.ended("completed", "incomplete"), j.text()
	done := responseItem(j, status, responsePart(text))
	before := []event{
		at(0, "response.created", begun),
		at(1, "response.in_progress", begun),
		at(2, "response.output_item.added", `,"output_index":0,"item":`+responseItem(j, "in_progress", "")),
		at(3, "response.content_part.added", inItem+`,"part":`+responsePart("")),
	}
	return j.events(before, func(_ int, word string) event {
		return at(4+j.streamed, "response.output_text.delta", inItem+`,"logprobs":[],"delta":`+asJSON(word))
	}, []event{
		at(4+j.output, "response.output_text.done", inItem+`,"logprobs":[],"text":`+asJSON(text)),
		at(5+j.output, "response.content_part.done", inItem+`,"part":`+responsePart(text)),
		at(6+j.output, "response.output_item.done", `,"output_index":0,"item":`+done),
		at(7+j.output, "response."+status, `,"response":`+responseObject(j, status, done, responseUsage(j))),
	})
}
