package envoy_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// multiplexing is a client for thousands of requests at once: a hundred streams share a connection of HTTP/2.
var multiplexing = func() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{DisableCompression: true, Protocols: protocols}}
}()

const (
	visitHeader = "x-visit: "
	jobTakes    = 10 * time.Millisecond
)

// model is a ModelLimit of all models of the name, with a capacity.
func model(name, capacity string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: %[1]s}
spec: {models: [%[1]s], shared: {rates: [{metric: Requests, per: Day, max: 100000}]}, capacity: %[2]s}
`, name, capacity)
}

// patient is a plan whose requests may wait.
func patient(name, priority string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: %s}
spec: {priority: %s, queue: {mode: Wait, maxWaitSeconds: 120}, limits: {rates: [{metric: Requests, per: Day, max: 20000}]}}
`, name, priority)
}

// A rush is requests that are sent at once, and what came of them.
type rush struct {
	*system

	t       *testing.T
	group   sync.WaitGroup
	mu      sync.Mutex
	answers map[string]map[int]int // by key, by status; 0: none
	slowest time.Duration
}

func newRush(t *testing.T, s *system) *rush {
	return &rush{system: s, t: t, answers: map[string]map[int]int{}}
}

// send sends n requests.
func (r *rush) send(ctx context.Context, n int, q request) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	r.t.Cleanup(cancel)
	for range n {
		r.group.Go(func() {
			began := time.Now()
			status := 0
			if req, err := q.to(ctx, r.port.url()); err == nil {
				if resp, err := multiplexing.Do(req); err == nil {
					status = resp.StatusCode
					_ = resp.Body.Close()
				}
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.answers[q.key] == nil {
				r.answers[q.key] = map[int]int{}
			}
			r.answers[q.key][status]++
			r.slowest = max(r.slowest, time.Since(began))
		})
	}
}

// want waits for all answers, each of which must have the status.
func (r *rush) want(status int) {
	r.t.Helper()
	r.group.Wait()
	for key, answers := range r.answers {
		if len(answers) != 1 || answers[status] == 0 {
			r.t.Errorf("%s got answers by status: %v, want %d only", key, answers, status)
		}
	}
}

// waiting waits until so many requests wait for the model.
func (s *system) waiting(t *testing.T, model string, n int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%d requests wait", n), func() bool {
		sum := 0.0
		for priority := range 4 {
			length, _ := s.metric(t, fmt.Sprintf(`tierkeeper_queue_length{model_limit="%s",priority="%d"}`, model, priority+1))
			sum += length
		}
		return int(sum) == n
	})
}

// A workshop is a provider that takes as long for each request, and notes who came when. What is done there is counted.
type workshop struct {
	takes time.Duration
	// One after the other in place of it: each ends when so many are there, the first of them, and the last once all have come.
	inTurn, all int

	mu      sync.Mutex
	visits  []string        // the header x-visit, in the order in which requests came
	row     []chan struct{} // closed for those whose turn it is to end
	working int
	most    int // at once
}

// ServeHTTP implements http.Handler.
func (w *workshop) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.mu.Lock()
	w.visits = append(w.visits, r.Header.Get("x-visit"))
	w.working++
	w.most = max(w.most, w.working)
	turn := w.standInRow()
	w.mu.Unlock()
	work := time.NewTimer(w.takes)
	defer work.Stop()
	select {
	case <-work.C:
	case <-turn:
	case <-r.Context().Done():
	}
	w.mu.Lock()
	w.working--
	w.mu.Unlock()
	out.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(out, `{"object":"chat.completion","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
}

// standInRow returns what is closed when it is the turn of the request that has just come; nil: it never is.
func (w *workshop) standInRow() <-chan struct{} {
	if w.inTurn == 0 {
		return nil
	}
	turn := make(chan struct{})
	w.row = append(w.row, turn)
	for len(w.row) >= w.inTurn || len(w.row) > 0 && len(w.visits) == w.all {
		close(w.row[0])
		w.row = w.row[1:]
	}
	return turn
}

// seen is how many requests have come.
func (w *workshop) seen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.visits)
}

// startWith starts a system whose provider is the workshop.
func startWith(t *testing.T, w *workshop, docs ...string) *system {
	t.Helper()
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	at := fmt.Sprintf("port: %d}", portOf(server.Listener))
	return startWithoutDemo(t, manifests(append([]string{strings.Replace(gateway, "port: 8090}", at, 1)}, docs...)...))
}

// TestARushIsServedByPriorityAndInTurns sends what three keys of each priority have, one of them ten times as much, while all
// four slots are taken, and looks in which order they come to the provider. (That nobody else overtakes is proved, to the
// request, on a clock that stands still: here requests that are under way together may pass each other.)
func TestARushIsServedByPriorityAndInTurns(t *testing.T) {
	const slots, each = 4, 200
	w := &workshop{takes: jobTakes}
	docs := []string{
		model("rush", "{concurrentRequests: 4, queue: {maxLength: 5000, maxWaitSeconds: 120, ageSeconds: 300}}"), patient("high", "High"), patient("low", "Low"),
	}
	keys := []string{"high-1", "high-2", "high-3", "low-1", "low-2", "low-3"}
	for _, key := range keys {
		tier, _, _ := strings.Cut(key, "-")
		docs = append(docs, holder(key, tier, "key-"+key))
	}
	s := startWith(t, w, docs...)
	w.mu.Lock() // Nothing is done before all are there.
	r := newRush(t, s)
	r.send(t.Context(), slots, chat("key-low-1", prompt{model: "rush"}, visitHeader+"first"))
	eventually(t, soon, "the slots are taken", func() bool {
		n, _ := s.metric(t, `tierkeeper_capacity_in_use{model_limit="rush"}`)
		return n == slots
	})
	sent := map[string]int{}
	for _, key := range keys {
		sent[key] = each
	}
	sent["high-1"] = 10 * each
	for key, n := range sent {
		r.send(t.Context(), n, chat("key-"+key, prompt{model: "rush"}, visitHeader+key))
	}
	s.waiting(t, "rush", 15*each)
	w.mu.Unlock()
	r.want(http.StatusOK)
	if w.most > slots {
		t.Errorf("%d requests were at the provider at once, want at most %d", w.most, slots)
	}
	left := maps.Clone(sent)
	got := map[string]int{}
	high := 12 * each
	for i, key := range w.visits[slots:] {
		got[key]++
		left[key]--
		if strings.HasPrefix(key, "high") {
			high--
		} else if high > slots {
			t.Fatalf("after %d others one of low priority was served, with %d of high priority waiting", i, high)
		}
		for _, of := range [][]string{keys[:3], keys[3:]} {
			if min(left[of[0]], left[of[1]], left[of[2]]) < slots {
				continue // Who has nobody left to send cannot keep up.
			}
			if most, least := max(got[of[0]], got[of[1]], got[of[2]]), min(got[of[0]], got[of[1]], got[of[2]]); most-least > 2+slots {
				t.Fatalf("after %d releases the keys of one priority have had %v", i+1, got)
			}
		}
	}
	t.Logf("%d served, the slowest after %s", len(w.visits), r.slowest)
}

// TestAReservedShareIsLentAndComesBack fills a model with requests of one plan, and then lets those of the plan come that has
// a share.
func TestAReservedShareIsLentAndComesBack(t *testing.T) {
	t.Parallel()
	w := &workshop{takes: time.Hour, inTurn: 4, all: 404} // so that none passes another on the way
	s := startWith(t, w,
		model("shared", "{concurrentRequests: 4, queue: {maxLength: 500, maxWaitSeconds: 120, ageSeconds: 300}, reserved: [{tierName: low, concurrentRequests: 1}]}"),
		patient("high", "High"), patient("low", "Low"), holder("high", "high", "key-high"), holder("low", "low", "key-low"))
	w.mu.Lock()
	r := newRush(t, s)
	r.send(t.Context(), 304, chat("key-high", prompt{model: "shared"}, visitHeader+"high"))
	s.waiting(t, "shared", 300)
	if n, _ := s.metric(t, `tierkeeper_capacity_in_use{model_limit="shared"}`); n != 4 {
		t.Errorf("%v requests are under way, want the idle share lent out: 4", n)
	}
	r.send(t.Context(), 100, chat("key-low", prompt{model: "shared"}, visitHeader+"low"))
	s.waiting(t, "shared", 400)
	w.mu.Unlock()
	r.want(http.StatusOK)
	first := slices.Index(w.visits, "low")
	if first != 4 {
		t.Errorf("the first of the share came after %d others, want it with the first release after the 4 under way", first)
	}
	low := 0
	for _, visit := range w.visits[:200] {
		if visit == "low" {
			low++
		}
	}
	// One of four slots is theirs: every fourth that comes after those under way.
	if want := (200 - 4) / 4; low != want {
		t.Errorf("of the first 200 %d are of the share, want %d", low, want)
	}
	t.Logf("the first of the share came as number %d; %d of the first 200 are of the share", first+1, low)
}

// TestWhoGoesAwayWaitingCostsNothing cancels requests that wait.
func TestWhoGoesAwayWaitingCostsNothing(t *testing.T) {
	t.Parallel()
	w := &workshop{takes: jobTakes}
	s := startWith(t, w, model("held", "{concurrentRequests: 1, queue: {maxLength: 500, maxWaitSeconds: 120}}"),
		patient("patient", "Normal"), holder("goes", "patient", "key-goes"), holder("stays", "patient", "key-stays"))
	clearOf(t, 24*time.Hour)
	w.mu.Lock()
	r := newRush(t, s)
	r.send(t.Context(), 2, chat("key-stays", prompt{model: "held"}, visitHeader+"stays"))
	s.waiting(t, "held", 1)
	ctx, goAway := context.WithCancel(t.Context())
	gone := newRush(t, s)
	gone.send(ctx, 150, chat("key-goes", prompt{model: "held"}, visitHeader+"goes")) // over HTTP/2
	for range 50 {                                                                   // and over HTTP/1.1
		gone.group.Go(func() {
			if a, err := s.try(ctx, chat("key-goes", prompt{model: "held"}, visitHeader+"goes")); err == nil {
				t.Errorf("a request that was cancelled got %d", a.status)
			}
		})
	}
	s.waiting(t, "held", 201)
	goAway()
	gone.want(0)
	s.waiting(t, "held", 1)
	eventually(t, soon, "those who are gone have got back what was taken for them", func() bool {
		n, _ := s.metric(t, `tierkeeper_call_seconds_count{call="reserve",outcome="gone"}`)
		return n == 200
	})
	w.mu.Unlock()
	r.want(http.StatusOK)
	a := s.pass(t, chat("key-goes", prompt{model: "held"}, visitHeader+"goes"))
	if used := a.number(t, "x-ratelimit-used"); used != 1 {
		t.Errorf("%d requests of the key are used, want this one alone", used)
	}
	if n := w.seen(); n != 3 {
		t.Errorf("%d requests came to the provider, want 3", n)
	}
	if n, _ := s.metric(t, `tierkeeper_queue_wait_seconds_count{model_limit="held",outcome="gone"}`); n != 200 {
		t.Errorf("%v waits ended because the client was gone, want 200", n)
	}
}

// TestFiveThousandWait (which has the machine to itself, as TestARush has) holds 5,000 requests of 1 KB while the model is busy, and serves all of them.
func TestFiveThousandWait(t *testing.T) {
	const n = 5000
	files := manifests(gateway, model("held", "{concurrentRequests: 1, queue: {maxLength: 5000, maxWaitSeconds: 120}}"),
		patient("patient", "Normal"), holder("waits", "patient", "key-waits"))
	s := start(t, files)
	busy := s.open(t, chat("key-waits", prompt{model: "held", stream: true}, "x-demo-token-delay: 1h"))
	if busy.status != http.StatusOK {
		t.Fatalf("the first request got %d", busy.status)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	r := newRush(t, s)
	r.send(t.Context(), n, chat("key-waits", prompt{model: "held", content: strings.Repeat("x", 1000), maxTokens: 1}))
	s.waiting(t, "held", n)
	bytes, _ := s.metric(t, `tierkeeper_queue_body_bytes{model_limit="held"}`)
	if bytes < n*1000 || bytes > n*1200 {
		t.Errorf("the bodies that wait are %v bytes, want 5,000 of a little over 1,000", bytes)
	}
	if a := s.send(t, chat("key-waits", prompt{model: "held"})); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"queue_full"`) || a.number(t, "Retry-After") < 1 {
		t.Errorf("one more got %d: %s, want 503 queue_full", a.status, a.body)
	}
	began := time.Now()
	name, content := edit(t, files, "concurrentRequests: 1,", "concurrentRequests: 100,")
	s.write(t, name, content)
	r.want(http.StatusOK)
	t.Logf("5,000 were served in %s, the slowest after %s; this process may open %d files", time.Since(began), r.slowest, limit.Cur)
	s.waiting(t, "held", 0)
	busy.cut()
	eventually(t, soon, "every slot is free", func() bool {
		return s.pass(t, chat("key-waits", prompt{model: "held"})).status == http.StatusOK
	})
}

// TestEnvoyHoldsLittleOfABodyThatItDoesNotRead sends a body without end over HTTP/2, of a request that waits: its window is what the
// client may send before Envoy has read it.
func TestEnvoyHoldsLittleOfABodyThatItDoesNotRead(t *testing.T) {
	t.Parallel()
	const mebibyte, unsent = 1 << 20, 1 << 17 // unsent: what the client has read and may not send yet
	opaque := strings.NewReplacer("maxBodyBytes: 65536", "maxBodyBytes: 1073741824", "protocol: OpaqueBody, resource: images", "protocol: OpaqueBody, resource: images, model: held").Replace(gateway)
	s := start(t, manifests(opaque, model("held", "{concurrentRequests: 1, queue: {maxLength: 10, maxWaitSeconds: 120}}"),
		patient("patient", "Normal"), holder("waits", "patient", "key-waits")))
	busy := s.open(t, chat("key-waits", prompt{model: "held", stream: true}, "x-demo-token-delay: 1h"))
	defer busy.cut()
	ctx, goAway := context.WithCancel(t.Context())
	defer goAway()
	sent := &flood{}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.port.url()+"/v1/images/edits", sent)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer key-waits")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := multiplexing.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	s.waiting(t, "held", 1)
	last, since := int64(0), time.Now()
	eventually(t, soon, "Envoy takes no more", func() bool {
		if n := sent.n.Load(); n != last {
			last, since = n, time.Now()
		}
		return last > 0 && time.Since(since) > time.Second
	})
	if counted, _ := s.metric(t, `tierkeeper_queue_body_bytes{model_limit="held"}`); counted != 2*mebibyte || last > int64(counted)+unsent {
		t.Errorf("the client has read %d bytes of the body, which counts as %v, want it to count as the 2 MiB that Envoy takes at most", last, counted)
	}
	goAway()
	<-done
}

// A flood is a body without end, which counts what is taken of it.
type flood struct{ n atomic.Int64 }

// Read implements io.Reader.
func (f *flood) Read(p []byte) (int, error) {
	p = p[:min(len(p), 1<<14)]
	f.n.Add(int64(len(p)))
	return len(p), nil
}
