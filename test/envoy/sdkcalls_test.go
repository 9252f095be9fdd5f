package envoy_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const callsMost = time.Minute // for all calls of one driver, with what the library waits between its tries

// An sdk is one of the providers' client libraries, with all settings but address and key as they are by default.
type sdk struct{ language, library string }

var sdks = []sdk{{"Python", "openai"}, {"Python", "anthropic"}, {"Node", "openai"}, {"Node", "anthropic"}}

// drivers are the programs that make calls with the libraries of a language. Python is not shown what else is installed here.
var drivers = map[string][]string{
	"Python": {"python3", "-S", filepath.Join("sdk", "calls.py")},
	"Node":   {"node", filepath.Join("sdk", "calls.cjs")},
}

// An sdkCall is one call of one function of a library.
type sdkCall struct {
	API   string `json:"api"` // as the drivers name it
	Key   string `json:"key"`
	Model string `json:"model"`
	Text  string `json:"text"` // what is asked
	URL   string `json:"url"`  // filled in by the tap
}

// An sdkResult is what the caller got, an answer or an error, and what it took.
type sdkResult struct {
	Answer  sdkAnswer `json:"answer"`
	Error   sdkError  `json:"error"`
	Seconds float64   `json:"seconds"` // until the function returned
	tries   []sdkTry
}

// An sdkAnswer is what can be read of an answer; no API has all of it.
type sdkAnswer struct {
	Text   string `json:"text"`
	Pieces int64  `json:"pieces"` // in which the text came, if it was streamed
	Input  int64  `json:"input"`  // tokens
	Output int64  `json:"output"`
	Count  int    `json:"count"` // things that are no text
	Size   int    `json:"size"`  // of the first of them
}

// An sdkError is the exception that the library threw.
type sdkError struct {
	Class      string `json:"class"`
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Type       string `json:"type"`
	Message    string `json:"message"`
	RetryAfter string `json:"retryAfter"`
}

// An sdkTry is one request on the wire and the status of its answer.
type sdkTry struct {
	call            string
	status          int
	began, answered time.Time
}

// installed is where the libraries are. Without them the test is skipped, or fails where nothing may be skipped.
func installed(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SDKS")
	switch {
	case dir != "":
	case os.Getenv("REQUIRE_SDKS") == "1":
		t.Fatal("SDKS names no folder with the providers' client libraries: run make test-sdk.")
	default:
		t.Skip("This test needs the providers' client libraries: run it with make test-sdk.")
	}
	return dir
}

// startForSDKs is start for a test that needs the libraries.
func startForSDKs(t *testing.T, files map[string]string) *system {
	t.Helper()
	installed(t)
	return start(t, files)
}

// eachSDK checks a claim for every library.
func eachSDK(t *testing.T, claim func(t *testing.T, k sdk)) {
	t.Helper()
	for _, k := range sdks {
		t.Run(k.name(), func(t *testing.T) {
			t.Parallel()
			claim(t, k)
		})
	}
}

func (k sdk) name() string { return k.language + "-" + k.library }

// key is the library's own, where each has one.
func (k sdk) key() string { return "key-of-" + strings.ToLower(k.name()) }

// holders are quotas on a tier for the keys of all libraries.
func holders(tier string) string {
	docs := make([]string, len(sdks))
	for i, k := range sdks {
		docs[i] = holder(strings.ToLower(k.name()), tier, k.key())
	}
	return strings.Join(docs, "---\n")
}

// A tap stands between a library and the gateway and notes each try, so that nothing in the library has to.
type tap struct {
	url   string
	mu    sync.Mutex
	tries []sdkTry
	// refused gets, with each refusal, what lets it pass on to the library. Nil: it passes by itself.
	refused chan func()
}

type tryKey struct{}

func newTap(t *testing.T, s *system) *tap {
	t.Helper()
	gateway, err := url.Parse(s.port.url())
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(gateway) },
		ModifyResponse: p.note,
		FlushInterval:  -1, // streams pass as they come
		Transport:      client.Transport,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		r.URL.Path = "/" + path
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tryKey{}, sdkTry{call: number, began: time.Now()})))
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// note keeps a try once it is answered.
func (p *tap) note(answer *http.Response) error {
	ctx := answer.Request.Context()
	this := ctx.Value(tryKey{}).(sdkTry) //nolint:forcetypeassert // The server put it there.
	if p.refused != nil && answer.StatusCode == http.StatusTooManyRequests {
		passed, pass := context.WithCancel(ctx) // which also ends when the library hangs up
		defer pass()
		select {
		case p.refused <- pass:
			<-passed.Done()
		case <-ctx.Done():
		}
	}
	this.status, this.answered = answer.StatusCode, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries = append(p.tries, this)
	return nil
}

// refusal waits for the next refusal. The library does not have it before pass is called.
func (p *tap) refusal(t *testing.T) (pass func()) {
	t.Helper()
	timer := time.NewTimer(callsMost)
	defer timer.Stop()
	select {
	case pass = <-p.refused:
	case <-timer.C:
		t.Fatalf("nothing was refused within %s", callsMost)
	}
	return pass
}

// make has a library make calls, one after the other.
func (p *tap) make(t *testing.T, k sdk, calls ...sdkCall) []sdkResult {
	t.Helper()
	return p.begin(t, k, calls...)()
}

// begin is make for a test that has something to do meanwhile, and then waits for the results.
func (p *tap) begin(t *testing.T, k sdk, calls ...sdkCall) (end func() []sdkResult) {
	t.Helper()
	for i := range calls {
		calls[i].URL = p.url + "/" + strconv.Itoa(i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callsMost)
	argv := append(slices.Clone(drivers[k.language]), k.library)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment(installed(t))
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(jsonOf(calls)), &stdout, &stderr
	wait := sync.OnceValue(cmd.Wait)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = wait()
	})
	return func() []sdkResult {
		t.Helper()
		if err := wait(); err != nil {
			t.Fatalf("%v: %v (%v)\n%s", argv, err, ctx.Err(), stderr.String())
		}
		var results []sdkResult
		decode(t, stdout.String(), &results)
		if len(results) != len(calls) {
			t.Fatalf("%v: %d results of %d calls", argv, len(results), len(calls))
		}
		p.assign(t, results)
		return results
	}
}

// assign gives each result its tries.
func (p *tap) assign(t *testing.T, results []sdkResult) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, this := range p.tries {
		i, err := strconv.Atoi(this.call)
		if err != nil || i >= len(results) {
			t.Fatalf("a try belongs to call %q", this.call)
		}
		results[i].tries = append(results[i].tries, this)
	}
}

// environment is ours without what the libraries would take from it: keys, addresses and proxies.
func environment(installed string) []string {
	env := slices.DeleteFunc(os.Environ(), func(line string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(line), "=")
		return strings.HasPrefix(name, "OPENAI_") || strings.HasPrefix(name, "ANTHROPIC_") || strings.HasSuffix(name, "_PROXY")
	})
	return append(env, "PYTHONPATH="+filepath.Join(installed, "python"), "NODE_PATH="+filepath.Join(installed, "node_modules"))
}

// statuses are what the tries were answered.
func (r sdkResult) statuses() []int {
	all := make([]int, len(r.tries))
	for i, this := range r.tries {
		all[i] = this.status
	}
	return all
}

// waits are how long the library waited after each answer until it tried again.
func (r sdkResult) waits() []time.Duration {
	var all []time.Duration
	for i := 1; i < len(r.tries); i++ {
		all = append(all, r.tries[i].began.Sub(r.tries[i-1].answered))
	}
	return all
}
