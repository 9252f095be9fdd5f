package demo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/demo"
)

var someDay = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A fixture is a provider behind a real server.
type fixture struct {
	*demo.Provider
	server *httptest.Server
}

func start(t *testing.T, options ...demo.Option) *fixture {
	t.Helper()
	options = append([]demo.Option{
		demo.WithNow(func() time.Time { return someDay }),
		demo.WithSleep(func(context.Context, time.Duration) error {
			return errors.New("nobody asked for a delay")
		}),
	}, options...)
	return serve(t, demo.New(options...))
}

func serve(t *testing.T, p *demo.Provider) *fixture {
	t.Helper()
	f := &fixture{p, httptest.NewServer(p)}
	t.Cleanup(f.server.Close)
	return f
}

func (f *fixture) request(ctx context.Context, t *testing.T, method, path, body string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, f.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return r
}

// An answer is a response that was read to its end, or to where it broke.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (f *fixture) do(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	resp, err := f.server.Client().Do(f.request(t.Context(), t, method, path, body, headers...))
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

// post expects an answer that is whole.
func (f *fixture) post(t *testing.T, path, body string, headers ...string) answer {
	t.Helper()
	a := f.do(t, http.MethodPost, path, body, headers...)
	if a.err != nil {
		t.Fatalf("POST %s: %v", path, a.err)
	}
	return a
}

// only waits for every answer to end and returns the one request there was.
func (f *fixture) only(t *testing.T) demo.Request {
	t.Helper()
	f.server.Close()
	all := f.Requests()
	if len(all) != 1 {
		t.Fatalf("got %d requests, want 1", len(all))
	}
	return all[0]
}

// parse reads JSON into the kind of values that cmp can compare with literals.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("parsing %q: %v", text, err)
	}
	return v
}

// An event is one server-sent event.
type event struct{ name, data string }

// events splits a stream by the rules of SSE as far as providers use them; a frame cut short is left out.
func events(t *testing.T, stream string) []event {
	t.Helper()
	var all []event
	var e event
	for s := bufio.NewScanner(strings.NewReader(stream)); s.Scan(); {
		field, value, _ := strings.Cut(s.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			all = append(all, e)
			e = event{}
		default:
			t.Fatalf("unexpected line %q in the stream", s.Text())
		}
	}
	return all
}
