package envoy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const keyGood = "key-good"

// guarded has a limit of requests per day, by which it can be told what was counted.
func guarded(t *testing.T) *system {
	t.Helper()
	s := start(t, manifests(gateway,
		tier("good", "{metric: Requests, per: Day, max: 100000}", "{metric: Tokens, per: Day, max: 1000000}", "concurrency: 10"),
		holder("good", "good", keyGood), holder("other", "good", "key-other")))
	clearOf(t, 24*time.Hour)
	return s
}

// checkAlive demands that nothing has crashed, and that the key was charged for so many requests before.
func (s *system) checkAlive(t *testing.T, before int64) {
	t.Helper()
	s.checkUsed(t, before, before)
}

// checkUsed is checkAlive where it is not certain how many requests were counted.
func (s *system) checkUsed(t *testing.T, least, most int64) {
	t.Helper()
	a := s.settled(t, chat(keyGood, prompt{}))
	if a.status != http.StatusOK {
		t.Fatalf("afterwards a good request got %d: %s", a.status, a.body)
	}
	if used := a.number(t, "x-ratelimit-used"); used < least+1 || used > most+1 {
		t.Errorf("afterwards %d requests are used, want %d to %d and this one", used, least, most)
	}
	if strings.Contains(s.Stderr.String(), "Envoy is gone") {
		t.Error("Envoy died")
	}
	if s.HasEnded() {
		t.Errorf("tierkeeper ended: %v", s.Err())
	}
}

func TestBadInputIsRefusedAndCostsNothing(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	longModel, longKey := strings.Repeat("m", 10<<10), strings.Repeat("k", 50<<10)
	for name, tc := range map[string]struct {
		request request
		status  int
		openAI  string // code
		other   string // type, in Anthropic's shape
	}{
		"not JSON":             {request{key: keyGood, body: `{"model":`}, 400, "invalid_json", ""},
		"not JSON, Anthropic":  {request{key: keyGood, path: messagesPath, body: `model=claude`}, 400, "", "invalid_request_error"},
		"an empty body":        {request{key: keyGood}, 400, "invalid_model", ""},
		"an empty body, Anthr": {request{key: keyGood, path: messagesPath}, 400, "", "invalid_request_error"},
		"a list":               {request{key: keyGood, body: `["gpt-4o"]`}, 400, "invalid_model", ""},
		"no model":             {request{key: keyGood, body: `{"messages":[{"role":"user","content":"Hello"}]}`}, 400, "invalid_model", ""},
		"a model of 10 KB":     {chat(keyGood, prompt{model: longModel}), 400, "invalid_model", ""},
		"the same, Anthropic":  {messages(keyGood, prompt{model: longModel}), 400, "", "invalid_request_error"},
		"a key of 50 KB":       {chat(longKey, prompt{}), 401, "invalid_api_key", ""},
		"no key":               {chat("", prompt{}), 401, "missing_api_key", ""},
		"no key, Anthropic":    {messages("", prompt{}), 401, "", "authentication_error"},
		"an empty key":         {chat("", prompt{}, "Authorization: Bearer ", "x-api-key: "), 401, "missing_api_key", ""},
		"an unknown key":       {chat("key-nobody", prompt{}), 401, "invalid_api_key", ""},
		"two different keys":   {chat(keyGood, prompt{}, "x-api-key: key-other"), 401, "conflicting_api_keys", ""},
		"two headers":          {chat(keyGood, prompt{}, "Authorization: Bearer key-other"), 401, "conflicting_api_keys", ""},
		"a key and a query":    {request{key: keyGood, path: chatPath + "?key=key-other", body: prompt{}.chat()}, 401, "conflicting_api_keys", ""},
		"a body of 65,537":     {sized(t, keyGood, 65537, prompt{}), 413, "request_too_large", ""},
		"the same, Anthropic ": {messages(keyGood, prompt{content: strings.Repeat("x", 70_000)}), 413, "", "request_too_large"},
		"no such path":         {request{key: keyGood, path: "/v1/nothing", body: "{}"}, 404, "unknown_url", ""},
		"no such method":       {request{key: keyGood, method: http.MethodDelete}, 404, "unknown_url", ""},
	} {
		a := s.send(t, tc.request)
		if a.status != tc.status {
			t.Errorf("%s: status %d, want %d: %s", name, a.status, tc.status, a.body)
			continue
		}
		checkShape(t, name, a, tc.openAI, tc.other)
	}
	s.checkAlive(t, 0)
}

// checkShape demands an error in the shape of the route's protocol.
func checkShape(t *testing.T, name string, a answer, code, kind string) {
	t.Helper()
	var body struct {
		Type  string
		Error struct{ Type, Message, Code string }
	}
	decode(t, a.body, &body)
	if body.Error.Message == "" || body.Error.Code != code || code == "" && (body.Type != "error" || body.Error.Type != kind) {
		t.Errorf("%s: the error is %s, want code %q or type %q", name, a.body, code, kind)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: the error has type %q", name, got)
	}
	for _, value := range []string{"Retry-After", "x-ratelimit-limit-requests", "x-ratelimit-limit"} {
		if got := a.header.Get(value); got != "" {
			t.Errorf("%s: %s: %s", name, value, got)
		}
	}
}

func TestAGoodKeyMayComeInAnyPlaceAndTwice(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	var passed int64
	for name, r := range map[string]request{
		"bearer, in any case": chat("", prompt{}, "Authorization: bearer "+keyGood),
		"x-api-key":           chat("", prompt{}, "x-api-key: "+keyGood),
		"query":               {path: chatPath + "?key=" + keyGood, body: prompt{}.chat()},
		"twice":               chat(keyGood, prompt{}, "x-api-key: "+keyGood),
		"the header twice":    chat(keyGood, prompt{}, "Authorization: Bearer "+keyGood),
		"an empty one beside": chat(keyGood, prompt{}, "x-api-key: "),
	} {
		passed++
		if a := s.settled(t, r); a.status != http.StatusOK {
			t.Errorf("%s: status %d: %s", name, a.status, a.body)
		}
	}
	s.checkAlive(t, passed)
}

// A body in chunks has no length to be refused by.
func TestAChunkedBodyIsBoundedToo(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	var counted, maybe int64
	for _, path := range []string{chatPath, messagesPath, imagesPath} {
		status, header, body := s.sendChunks(t, path, 70)
		if status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d, want 413: %s", path, status, body)
			continue
		}
		if !strings.Contains(body, `"request_too_large"`) {
			t.Errorf("%s: the error is %s", path, body)
		}
		// The request of an opaque route is not read first, so it is counted before its body is too long; or while Envoy answers.
		switch {
		case header.Get("x-ratelimit-limit") != "":
			counted++
		case path == imagesPath:
			maybe++
		}
	}
	s.checkUsed(t, counted, counted+maybe)
}

// sendChunks sends a body in chunks of 1,000 bytes and reads the answer, which may come before all are sent.
func (s *system) sendChunks(t *testing.T, path string, n int) (status int, header http.Header, body string) {
	t.Helper()
	conn := s.connect(t)
	go func() {
		_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", path, keyGood)
		_, _ = fmt.Fprintf(conn, "%x\r\n%s\r\n", 25, `{"model":"m","messages":"`)
		for range n {
			if _, err := fmt.Fprintf(conn, "3e8\r\n%s\r\n", strings.Repeat("x", 1000)); err != nil {
				return // refused already
			}
		}
		_, _ = fmt.Fprintf(conn, "2\r\n\"}\r\n0\r\n\r\n")
	}()
	return readAnswer(t, conn)
}

// connect is for what no HTTP client would send.
func (s *system) connect(t *testing.T) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", "127.0.0.1:"+s.port.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func readAnswer(t *testing.T, conn net.Conn) (status int, header http.Header, body string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(answerMost)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var b strings.Builder
	_, err = bufio.NewReader(resp.Body).WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b.String()
}

func TestHeadersBeyondWhatEnvoyTakes(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	for name, header := range map[string][]string{
		"one of 100 KB": {"x-large: " + strings.Repeat("h", 100<<10)},
		"a key of 1 MB": {"x-api-key: " + strings.Repeat("k", 1<<20)},
		"300 of them":   many(300),
	} {
		a, err := s.try(t.Context(), chat(keyGood, prompt{}, header...))
		// Envoy may close the connection before it has read all.
		if err == nil && a.status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: status %d, want 431: %s", name, a.status, a.body)
		}
	}
	s.checkAlive(t, 0)
}

func many(n int) []string {
	var all []string
	for i := range n {
		all = append(all, "x-number-"+strconv.Itoa(i)+": 1")
	}
	return all
}

// It runs while no other test does: on a machine that is busy all the same, the service may answer some of them too late, and
// then the client is told so.
func TestAThousandUnknownKeysAtOnce(t *testing.T) {
	s := guarded(t)
	var mu sync.Mutex
	got := map[string]int{}
	var group sync.WaitGroup
	for i := range 1000 {
		group.Go(func() {
			a, err := s.try(t.Context(), chat("key-unknown-"+strconv.Itoa(i), prompt{}))
			mu.Lock()
			defer mu.Unlock()
			got[verdict(a, err)]++
		})
	}
	group.Wait()
	if refused, late := got["401 invalid_api_key"], got["503 rate_limiter_unavailable, retry after 2"]; refused == 0 || refused+late != 1000 {
		t.Errorf("the answers are %v, want 1,000 times 401", got)
	}
	eventually(t, soon, "the service is asked again, if it was late", func() bool {
		return s.send(t, chat("key-other", prompt{})).status == http.StatusOK
	})
	s.checkAlive(t, 0)
}

// verdict is what a client is told, in short.
func verdict(a answer, err error) string {
	if err != nil {
		return err.Error()
	}
	var body struct{ Error struct{ Code string } }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		return err.Error()
	}
	short := fmt.Sprintf("%d %s", a.status, body.Error.Code)
	if wait := a.header.Get("Retry-After"); wait != "" {
		short += ", retry after " + wait
	}
	return short
}
