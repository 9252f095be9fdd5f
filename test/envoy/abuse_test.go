package envoy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// protecting is the gateway with an abuseProtection of these fields, and models that cost nothing to list.
func protecting(fields string) string {
	const free = `
  - {name: list, matches: [{path: {type: Exact, value: /v1/models}}], type: Backend, backendName: demo, protocol: OpaqueBody, metering: Unmetered}
  identity:`
	g := strings.Replace(gateway, "\n  identity:", free, 1)
	return strings.Replace(g, "\n  requests:", "\n  abuseProtection: {"+fields+"}\n  requests:", 1)
}

// startProtecting has the keys key-good and key-other, which nothing limits.
func startProtecting(t *testing.T, fields string) *system {
	t.Helper()
	return start(t, manifests(protecting(fields), tier("good", "concurrency: 100"), holder("good", "good", keyGood), holder("other", "good", "key-other")))
}

// failures is how many were counted by the system's gateway.
func (s *system) failures(t *testing.T) int {
	t.Helper()
	n, _ := s.metric(t, `tierkeeper_abuse_failures_total{gateway="default/main"}`)
	return int(n)
}

// fail sends a request n times, each of which must be answered with the status, and waits until all have counted.
func (s *system) fail(t *testing.T, n, status int, r request) {
	t.Helper()
	before := s.failures(t)
	for range n {
		if a := s.send(t, r); a.status != status {
			t.Fatalf("status %d %s, want %d", a.status, a.body, status)
		}
	}
	eventually(t, soon, fmt.Sprintf("%d failures are counted", n), func() bool { return s.failures(t) >= before+n })
	if got := s.failures(t) - before; got != n {
		t.Fatalf("%d failures are counted, want %d", got, n)
	}
}

func (a answer) blocked() bool {
	return a.status == http.StatusTooManyRequests && strings.Contains(a.body, "Too many failed attempts")
}

// tierkeeper runs the program against the admin address of the system.
func (s *system) tierkeeper(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append(args, "--admin", s.Says(t, `Admin: (\S+)`))...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, stderr.String())
	}
	return string(out)
}

// A block is what "tierkeeper blocks" tells of one.
type block struct {
	ID, Gateway, Kind, Name string
	Failures                int
}

func (s *system) blocks(t *testing.T) []block {
	t.Helper()
	var all []block
	if err := json.Unmarshal([]byte(s.tierkeeper(t, "blocks", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAKeyThatFailsTooOftenIsBlockedForAWhile(t *testing.T) {
	t.Parallel()
	const block = 15 * time.Second
	s := startProtecting(t, fmt.Sprintf("blockSeconds: %d", int(block.Seconds())))
	failing := chat(keyGood, prompt{}, "x-demo-status: 404")
	s.fail(t, 20, http.StatusNotFound, failing)
	s.pass(t, chat(keyGood, prompt{}))
	began := time.Now()
	s.fail(t, 1, http.StatusNotFound, failing)
	const message = `Too many failed attempts \(> 20\) resulting in a non-success status code\. Please wait (\d+)s and try again\.`
	for path, shape := range map[string]string{
		chatPath:     `^\{"error":\{"type":"rate_limit_error","message":"` + message + `","code":"too_many_failed_attempts"\}\}$`,
		messagesPath: `^\{"type":"error","error":\{"type":"rate_limit_error","message":"` + message + `"\}\}$`,
		"/v1/models": `^\{"error":\{"type":"rate_limit_error","message":"` + message + `","code":"too_many_failed_attempts"\}\}$`,
	} {
		a := s.send(t, request{path: path, key: keyGood, body: prompt{maxTokens: 1}.chat()})
		told := regexp.MustCompile(shape).FindStringSubmatch(a.body)
		wait := a.number(t, "Retry-After")
		if a.status != http.StatusTooManyRequests || told == nil || told[1] != a.header.Get("Retry-After") || wait < 1 || wait > int64(block.Seconds()) {
			t.Errorf("%s: %d, Retry-After %d: %s", path, a.status, wait, a.body)
		}
	}
	s.pass(t, chat("key-other", prompt{}))
	if a := s.send(t, chat("", prompt{})); a.status != http.StatusUnauthorized {
		t.Errorf("without a key: %d %s, want 401", a.status, a.body)
	}
	eventually(t, block+soon, "the block is over", func() bool {
		return s.send(t, chat(keyGood, prompt{})).status == http.StatusOK
	})
	if held := time.Since(began); held < block {
		t.Errorf("the block held for %s, want no less than %s", held, block)
	}
	// Counting has started anew, and what was refused meanwhile is not in it.
	s.fail(t, 20, http.StatusNotFound, failing)
	s.pass(t, chat(keyGood, prompt{}))
}

func TestALiftedBlockIsLifted(t *testing.T) {
	t.Parallel()
	s := startProtecting(t, "maxFailures: 3, blockSeconds: 86400")
	s.fail(t, 4, http.StatusBadRequest, chat(keyGood, prompt{}, "x-demo-status: 400"))
	s.fail(t, 4, http.StatusUnauthorized, chat("key-of-nobody", prompt{}))
	a := s.send(t, chat(keyGood, prompt{}))
	if !a.blocked() || a.number(t, "Retry-After") < 86000 || a.header.Get("x-should-retry") != "false" {
		t.Fatalf("%d %v %s, want a block of a day", a.status, a.header, a.body)
	}
	all := s.blocks(t)
	if len(all) != 2 || all[0].Kind != "Address" || all[0].Name != "127.0.0.1" || all[0].Failures != 4 ||
		all[1].Kind != "ApiKeyQuota" || all[1].Name != "default/good" || all[1].Gateway != "default/main" {
		t.Fatalf("blocks %+v, want those of 127.0.0.1 and of default/good", all)
	}
	if n, _ := s.metric(t, `tierkeeper_abuse_blocks{gateway="default/main"}`); n != 2 {
		t.Errorf("the metric tells of %v blocks, want 2", n)
	}
	s.tierkeeper(t, "blocks", "lift", all[1].ID)
	s.pass(t, chat(keyGood, prompt{}))
	if a := s.send(t, chat("another-of-nobody", prompt{})); !a.blocked() {
		t.Errorf("the address, whose block was not lifted, got %d %s", a.status, a.body)
	}
	s.tierkeeper(t, "blocks", "lift", all[0].ID)
	if a := s.send(t, chat("", prompt{})); a.status != http.StatusUnauthorized {
		t.Errorf("without a key: %d %s, want 401", a.status, a.body)
	}
	if text := s.tierkeeper(t, "blocks"); text != "Nobody is blocked.\n" {
		t.Errorf("blocks says %s", text)
	}
}

func TestAnOutageOfAProviderBlocksNobody(t *testing.T) {
	t.Parallel()
	s := startProtecting(t, "")
	for status := range map[int]bool{500: true, 503: true} {
		for range 30 {
			if a := s.send(t, chat(keyGood, prompt{}, fmt.Sprintf("x-demo-status: %d", status))); a.status != status {
				t.Fatalf("status %d %s, want %d", a.status, a.body, status)
			}
		}
	}
	for range 30 {
		if a := s.send(t, chat(keyGood, prompt{}, "x-demo-reset: on")); a.status != http.StatusServiceUnavailable {
			t.Fatalf("status %d %s, want 503", a.status, a.body)
		}
	}
	s.fail(t, 20, http.StatusNotFound, chat("key-other", prompt{}, "x-demo-status: 404")) // Nothing else was counted, not even late.
	s.pass(t, chat(keyGood, prompt{}))
	s.pass(t, chat("key-other", prompt{}))
}

// at is a visitor with another address of this machine.
func (s *system) at(address string) visitor {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return visitor{&http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true, DialContext: dialer.DialContext}}, s.port.url()}
}

// What Envoy refuses by itself counts against the address, and blocks those from there whose key nobody knows.
func TestWhatEnvoyRefusesBlocksTheAddress(t *testing.T) {
	t.Parallel()
	s := startProtecting(t, "blockSeconds: 600")
	unknown := request{path: "/nowhere", key: keyGood}
	attempts := []struct {
		name, address string
		request       request
		status        int
		counts        bool
	}{
		{"broken JSON", "127.0.0.2", request{key: keyGood, body: `{"model":`}, 400, true},
		{"no route", "127.0.0.3", unknown, 404, true},
		{"a body too large", "127.0.0.4", request{key: keyGood, body: strings.Repeat(" ", 70_000)}, 413, true},
		{"an answer of a provider where nothing is metered", "127.0.0.5", request{path: "/v1/models", key: keyGood, header: []string{"x-demo-status: 404"}}, 404, false},
		{"a preflight", "127.0.0.6", request{method: http.MethodOptions, header: []string{"x-demo-status: 403"}}, 403, false},
		{"an outage", "127.0.0.7", chat("key-other", prompt{}, "x-demo-reset: on"), 503, false},
	}
	want := 0
	for _, try := range attempts {
		for range 21 {
			a, err := s.at(try.address).fetch(t.Context(), try.request)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != try.status {
				t.Fatalf("%s: status %d %s, want %d", try.name, a.status, a.body, try.status)
			}
		}
		if try.counts {
			want += 21
		}
	}
	send := func(address, key string) answer {
		a, err := s.at(address).fetch(t.Context(), chat(key, prompt{}))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, try := range attempts {
		if try.counts {
			eventually(t, soon, try.name+": the address is blocked", func() bool { return len(s.blocks(t)) == want/21 })
			if a := send(try.address, ""); !a.blocked() {
				t.Errorf("%s: without a key %d %s, want a block", try.name, a.status, a.body)
			}
			if a := send(try.address, "key-of-nobody"); !a.blocked() {
				t.Errorf("%s: with a key of nobody %d %s, want a block", try.name, a.status, a.body)
			}
			if a := send(try.address, keyGood); a.status != http.StatusOK {
				t.Errorf("%s: with a key %d %s, want 200", try.name, a.status, a.body)
			}
		}
	}
	for _, try := range attempts {
		if !try.counts {
			if a := send(try.address, ""); a.status != http.StatusUnauthorized {
				t.Errorf("%s: without a key %d %s, want 401", try.name, a.status, a.body)
			}
			want++
		}
	}
	// Envoy tells of all of them within a second or two, in whatever order; the marks are told behind them.
	for _, mark := range []string{"127.0.0.8", "127.0.0.9"} {
		for range 5 {
			if a, err := s.at(mark).fetch(t.Context(), unknown); err != nil || a.status != http.StatusNotFound {
				t.Fatalf("%v %v, want 404", a, err)
			}
		}
		want += 5
		eventually(t, soon, "the marks are counted", func() bool { return s.failures(t) >= want })
	}
	if got := s.failures(t); got != want {
		t.Errorf("%d failures are counted, want %d: none twice, and none that does not count", got, want)
	}
}

// Whoever may write a gateway can name any address as its backend: that of operators, too.
func TestNobodyLiftsABlockThroughAGateway(t *testing.T) {
	t.Parallel()
	files := manifests(gateway, tier("good", "concurrency: 100"), holder("good", "good", keyGood))
	s := startWithoutDemo(t, files)
	admin := s.Says(t, `Admin: http://127.0.0.1:(\d+)`)
	const images = "path: {type: PathPrefix, value: /v1/images}"
	for before, after := range map[string]string{"port: 8090": "port: " + admin, images: "path: {type: PathPrefix, value: /}"} {
		name, content := edit(t, files, before, after)
		files[name] = content
	}
	s.write(t, "all.yaml", files["all.yaml"])
	list := request{method: http.MethodGet, path: "/admin/blocks", key: keyGood}
	eventually(t, soon, "the edit is in force", func() bool { return s.send(t, list).status == http.StatusForbidden })
	for name, tc := range map[string]struct {
		header []string
		want   int
	}{
		"as it is":                    {nil, http.StatusForbidden},
		"without what proxies add":    {[]string{"X-Forwarded-Proto: ", "X-Request-Id: ", "X-Forwarded-For: "}, http.StatusForbidden},
		"in the name of this machine": {[]string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: 127.0.0.1"}, http.StatusForbidden},
		"for this hop alone":          {[]string{"Connection: x-request-id"}, http.StatusForbidden},
		"for this hop, as Envoy says": {[]string{"Connection: x-forwarded-proto"}, http.StatusBadRequest}, // by Envoy
	} {
		list.header = tc.header
		if a := s.send(t, list); a.status != tc.want || strings.Contains(a.body, "blocks") {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, tc.want)
		}
	}

	// Nor does anybody read the metrics, which name keys of all namespaces.
	metrics := s.Says(t, `Metrics: http://127.0.0.1:(\d+)`)
	s.write(t, "all.yaml", strings.Replace(files["all.yaml"], "port: "+admin, "port: "+metrics, 1))
	read := request{method: http.MethodGet, path: "/metrics", key: keyGood}
	var a answer
	eventually(t, soon, "the edit is in force", func() bool {
		a = s.send(t, read)
		return a.status != http.StatusNotFound && a.status != http.StatusServiceUnavailable
	})
	if a.status != http.StatusForbidden {
		t.Errorf("metrics: %d %.100s, want 403", a.status, a.body)
	}
}
