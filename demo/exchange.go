package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// A problem is a reason to answer with an error. Each protocol finds its own words for the status.
type problem struct {
	status  int
	code    string // OpenAI's; empty: what the status implies
	param   string // the field at fault; may be empty
	message string
}

func (p *problem) Error() string { return p.message }

func badRequest(param, format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, param: param, message: fmt.Sprintf(format, args...)}
}

// An exchange is one request while it is being answered, by one goroutine.
type exchange struct {
	provider *Provider
	route    route
	request  *http.Request
	writer   *meteredWriter
	switches Switches
	record   *Request // readers of the history share it: changed by note only
	sequence uint64
	streamed int // tokens so far, all choices together
}

func (x *exchange) serve() error {
	var err error
	if x.switches, err = x.provider.switches.over(x.request.Header); err != nil {
		return err
	}
	body, err := x.body()
	if err != nil {
		return err
	}
	if d := x.switches.delay; d > 0 {
		if err := x.provider.sleep(x.request.Context(), d); err != nil {
			return err
		}
	}
	if x.switches.reset {
		return errReset
	}
	if x.switches.rateLimit {
		setRateLimits(x.writer.Header(), x.provider.now())
	}
	switch status := x.switches.status; {
	case status >= http.StatusBadRequest:
		return &problem{status: status, message: fmt.Sprintf("The demo upstream answers %d because x-demo-status says so.", status)}
	case x.route.answer == nil:
		return x.json(http.StatusOK, fmt.Sprintf(`{"object":"demo.reply","method":%s,"path":%s,"body_bytes":%d}`,
			asJSON(x.request.Method), asJSON(x.request.URL.Path), x.record.BytesRead))
	case x.request.Method != http.MethodPost:
		return &problem{http.StatusMethodNotAllowed, "method_not_supported", "", "This path takes POST only."}
	default:
		return x.route.answer(x, body)
	}
}

// body reads the whole body, and keeps it if the route wants to know what it says.
func (x *exchange) body() (body []byte, err error) {
	in := http.MaxBytesReader(x.writer.ResponseWriter, x.request.Body, MaxBodyBytes)
	var n int64
	if x.route.answer == nil {
		n, err = io.Copy(io.Discard, in)
	} else {
		body, err = io.ReadAll(in)
		n = int64(len(body))
	}
	x.note(func(q *Request) { q.BytesRead = n })
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, &problem{
			http.StatusRequestEntityTooLarge, "request_too_large", "",
			fmt.Sprintf("The body is larger than the %d bytes that the demo upstream takes.", MaxBodyBytes),
		}
	}
	return body, err
}

// decode reads the JSON of a request into v, or says in a problem what is wrong with it.
func decode(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	if fault := new(problem); errors.As(err, &fault) {
		return fault
	}
	if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) && wrong.Field != "" {
		return badRequest(wrong.Field, "%s: cannot be of type %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return badRequest("", "The body of the request is not a JSON object.")
	}
	return nil
}

// json writes an answer that is not a stream.
func (x *exchange) json(status int, body string) error {
	h := x.writer.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.writer.WriteHeader(status)
	if x.switches.abort != nil && status == http.StatusOK {
		_, err := io.WriteString(x.writer, body[:len(body)/2])
		return errors.Join(err, http.NewResponseController(x.writer).Flush(), errAbort)
	}
	_, err := io.WriteString(x.writer, body)
	return err
}

// completion is json for the answer of a model; its tokens count once it is sent.
func (x *exchange) completion(body string, outputTokens int) error {
	err := x.json(http.StatusOK, body)
	if err == nil {
		x.note(func(q *Request) { q.OutputTokens = outputTokens })
	}
	return err
}

// stream begins an answer in server-sent events.
func (x *exchange) stream() {
	h := x.writer.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	x.writer.WriteHeader(http.StatusOK)
}

// event sends one event; an empty name sends none.
func (x *exchange) event(name, data string) error {
	if name != "" {
		name = "event: " + name + "\n"
	}
	if _, err := io.WriteString(x.writer, name+"data: "+data+"\n\n"); err != nil {
		return err
	}
	return http.NewResponseController(x.writer).Flush()
}

// tokens sends n tokens for each choice through emit, at the pace and to the end that the switches want.
func (x *exchange) tokens(n, choices int, emit func(choice int, word string) error) error {
	ctx := x.request.Context()
	for i := range n {
		if d := x.switches.tokenDelay; i > 0 && d > 0 {
			if err := x.provider.sleep(ctx, d); err != nil {
				return err
			}
		}
		for choice := range choices {
			if err := errors.Join(x.broken(), ctx.Err()); err != nil {
				return err
			}
			if err := emit(choice, word(i)); err != nil {
				return err
			}
			x.streamed++
			x.note(func(q *Request) { q.OutputTokens = x.streamed })
		}
	}
	return x.broken()
}

// broken is an error when a switch wants the stream to break here.
func (x *exchange) broken() error {
	if x.switches.abort != nil && *x.switches.abort == x.streamed {
		return errAbort
	}
	return nil
}

// understood records what the body asked for.
func (x *exchange) understood(model string, stream bool, inputTokens int) {
	x.note(func(q *Request) { q.Model, q.Stream, q.InputTokens = clip(model), stream, inputTokens })
}

func (x *exchange) note(change func(*Request)) { x.provider.history.change(x.record, change) }

func (x *exchange) end(how Outcome) { x.note(func(q *Request) { q.Outcome = how }) }

// asJSON writes a string, or numbers, as JSON does.
func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // neither strings nor finite numbers can fail
	}
	return string(b)
}

func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return asJSON(s)
}

// A meteredWriter keeps the status and the size of the body in the record.
type meteredWriter struct {
	http.ResponseWriter
	note func(func(*Request))
}

func (w *meteredWriter) WriteHeader(status int) {
	w.note(func(q *Request) { q.Status = status })
	w.ResponseWriter.WriteHeader(status)
}

func (w *meteredWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.note(func(q *Request) { q.BytesWritten += int64(n) })
	return n, err
}

// Unwrap lets http.ResponseController flush what is beneath.
func (w *meteredWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
