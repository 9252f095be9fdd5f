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

var errNoModel = badRequest("model", "model: you must provide a model parameter")

// An exchange is one request while it is being answered, by one goroutine.
type exchange struct {
	provider *Provider
	route    route
	request  *http.Request
	body     []byte // what the route keeps of it: all, a form, or nothing
	form     form
	writer   *meteredWriter
	switches Switches
	record   *Request // readers of the history share it: changed by note only
	sequence uint64
	promised int // the output of the answer, if it ends whole
	streamed int // tokens so far, all choices together
}

func (x *exchange) serve() error {
	var err error
	if x.switches, err = x.provider.switches.over(x.request.Header); err != nil {
		return err
	}
	if x.switches.credential {
		tellCredentials(x.writer.Header(), x.request.Header)
	}
	if err := x.readBody(); err != nil {
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
	if err := x.failure(); err != nil {
		return err
	}
	if method := x.route.method; method != "" && method != x.request.Method {
		return &problem{http.StatusMethodNotAllowed, "method_not_supported", "", "This path takes " + method + " only."}
	}
	return x.route.answer(x)
}

// readBody reads to the end even what is thrown away.
func (x *exchange) readBody() error {
	in := http.MaxBytesReader(x.writer.ResponseWriter, x.request.Body, MaxBodyBytes)
	err := x.route.read(x, &meteredReader{in, x.note})
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return &problem{
			http.StatusRequestEntityTooLarge, "request_too_large", "",
			fmt.Sprintf("The body is larger than the %d bytes that the demo upstream takes.", MaxBodyBytes),
		}
	}
	return err
}

// failure is the error that the switches want, if any.
func (x *exchange) failure() error {
	status, name := x.switches.status, "x-demo-status"
	if n := x.switches.failFirst; n > 0 {
		name = "x-demo-fail-first"
		switch {
		case !x.provider.failures.among(x.switches.failID, n):
			return nil
		case status < http.StatusBadRequest:
			status = http.StatusServiceUnavailable
		}
	}
	if status < http.StatusBadRequest {
		return nil
	}
	return &problem{status: status, message: fmt.Sprintf("The demo upstream answers %d because %s says so.", status, name)}
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
func (x *exchange) json(body string) error { return x.reply(http.StatusOK, "application/json", body) }

func (x *exchange) reply(status int, contentType, body string) error {
	h := x.writer.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.writer.WriteHeader(status)
	if x.switches.abort != nil && status == http.StatusOK {
		return errors.Join(x.write(body[:len(body)/2]), errAbort)
	}
	_, err := io.WriteString(x.writer, body)
	return err
}

// A cost is what a request and its whole answer come to, in tokens.
type cost struct {
	input  int
	cached int // of the input
	output int
}

// wanted is how many tokens each choice of an answer has, if nothing else bounds it.
func (x *exchange) wanted() int {
	if x.switches.tokens != nil {
		return *x.switches.tokens
	}
	return defaultTokens
}

// understood records what the body asked for.
func (x *exchange) understood(model string, stream bool, c cost) {
	x.promised = c.output
	x.note(func(q *Request) {
		q.Model, q.Stream, q.InputTokens, q.CachedTokens = clip(model), stream, c.input, c.cached
	})
}

func (x *exchange) created() int64 { return x.record.Started.Unix() }

func (x *exchange) note(change func(*Request)) { x.provider.history.change(x.record, change) }

func (x *exchange) end(how Outcome) {
	x.note(func(q *Request) {
		q.Outcome = how
		if how == Done {
			q.OutputTokens = x.promised
		}
	})
}

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
