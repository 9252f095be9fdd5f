package demo

import (
	"errors"
	"io"
	"net/http"
)

// begin sends the headers of a stream.
func (x *exchange) begin(contentType string) {
	h := x.writer.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache")
	x.writer.WriteHeader(http.StatusOK)
}

// write sends a piece of a stream at once.
func (x *exchange) write(piece string) error {
	if _, err := io.WriteString(x.writer, piece); err != nil {
		return err
	}
	return http.NewResponseController(x.writer).Flush()
}

// An event is a server-sent one; the name may be empty.
type event struct{ name, data string }

// typed is an event whose name is also its type; fields begin with the comma after that.
func typed(name, fields string) event { return event{name, `{"type":"` + name + `"` + fields + `}`} }

// events is a stream of the words of a job, each in the event that around makes of it.
func (j *job) events(before []event, around func(choice int, word string) event, after []event) error {
	j.begin("text/event-stream; charset=utf-8")
	for _, e := range before {
		if err := j.send(e); err != nil {
			return err
		}
	}
	err := j.speak(func(choice int, word string) error { return j.send(around(choice, word)) })
	if err != nil {
		return err
	}
	for _, e := range after {
		if err := j.send(e); err != nil {
			return err
		}
	}
	return nil
}

func (x *exchange) send(e event) error {
	if e.name != "" {
		return x.write("event: " + e.name + "\ndata: " + e.data + "\n\n")
	}
	return x.write("data: " + e.data + "\n\n")
}

// speak sends the words of all choices through emit, at the pace and to the end that the switches want.
func (j *job) speak(emit func(choice int, word string) error) error {
	ctx := j.request.Context()
	for i := range j.output {
		if d := j.switches.tokenDelay; i > 0 && d > 0 {
			if err := j.provider.sleep(ctx, d); err != nil {
				return err
			}
		}
		for choice := range j.n {
			if err := errors.Join(j.broken(), ctx.Err()); err != nil {
				return err
			}
			if err := emit(choice, word(i)); err != nil {
				return err
			}
			j.streamed++
			j.note(func(q *Request) { q.OutputTokens = j.streamed })
		}
	}
	return j.broken()
}

// broken is an error when a switch wants the stream to break here.
func (x *exchange) broken() error {
	if x.switches.abort != nil && *x.switches.abort == x.streamed {
		return errAbort
	}
	return nil
}
