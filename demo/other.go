package demo

import (
	"fmt"
	"strings"
)

// models lists some names; a request may use any other.
func models(x *exchange) error {
	var list []string
	for _, name := range []string{"gpt-4o", "gpt-4.1-mini", "text-embedding-3-small", "gpt-image-1", "whisper-1"} {
		list = append(list, fmt.Sprintf(`{"id":"%s","object":"model","created":1735689600,"owned_by":"demo"}`, name))
	}
	return x.json(`{"object":"list","data":[` + strings.Join(list, ",") + `]}`)
}

// queueVideo takes a video to be made, as gateways do that have a queue for it.
func queueVideo(x *exchange) error {
	var q struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	}
	if err := decode(x.body, &q); err != nil {
		return err
	}
	if q.Model == "" {
		return errNoModel
	}
	x.understood(q.Model, false, cost{input: optionalTokens(q.Prompt)})
	return x.json(fmt.Sprintf(`{"model":%s,"queue_id":"video-%024d"}`, asJSON(q.Model), x.sequence))
}

// retrieveVideo is never done: there is no video.
func retrieveVideo(x *exchange) error {
	q := struct {
		Model string `json:"model"`
		ID    string `json:"queue_id"`
	}{ID: x.request.URL.Query().Get("queue_id")}
	if len(x.body) > 0 {
		if err := decode(x.body, &q); err != nil {
			return err
		}
	}
	x.understood(q.Model, false, cost{})
	return x.json(fmt.Sprintf(`{"queue_id":%s,"status":"processing"}`, asJSON(q.ID)))
}
