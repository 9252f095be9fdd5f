package envoy_test

import (
	endian "encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slotExpiry is how long a request holds its slot without a sign of life: part of what is promised.
const slotExpiry = 35 * time.Second

// endless is a stream that stops after its first token and stays open.
func endless(key string) request {
	return chat(key, prompt{stream: true}, "x-demo-token-delay: 1h")
}

func TestSlotsOfADeadEnvoyAreFreeWithinTheExpiry(t *testing.T) {
	t.Parallel()
	s := start(t, manifests(gateway, tier("busy", "concurrency: 20"), holder("busy", "busy", "key-busy")))
	began := time.Now()
	for _, st := range s.openAll(t, 20, endless("key-busy")) {
		if st.status != http.StatusOK {
			t.Fatalf("one of 20 streams got %d", st.status)
		}
	}
	short := chat("key-busy", prompt{})
	if a := s.send(t, short); !a.busy() {
		t.Fatalf("the 21st at once got %d: %s", a.status, a.body)
	}

	killed := time.Now()
	s.killEnvoy(t)
	eventually(t, startMost, "another Envoy serves", func() bool {
		return strings.Contains(s.Stdout.String(), "serves "+s.port.url()+" again")
	})
	if a := s.send(t, short); !a.busy() {
		t.Errorf("with the new Envoy a request got %d before the slots expired: %s", a.status, a.body)
	}
	freed := chat("key-busy", prompt{model: "freed"})
	eventually(t, slotExpiry+soon, "a slot is free", func() bool { return !s.send(t, freed).busy() })
	if held := time.Since(began); held < slotExpiry {
		t.Errorf("a slot was free %s after it was taken, want no sooner than %s", held, slotExpiry)
	}
	s.settlement(t, "freed") // It holds a slot no more.
	// The last of the streams was opened before Envoy was killed, so every slot has expired by then.
	eventually(t, slotExpiry+soon, "the expiry is over", func() bool { return time.Since(killed) > slotExpiry })
	for _, st := range s.openAll(t, 20, endless("key-busy")) {
		if st.status != http.StatusOK {
			t.Errorf("%s after the kill one of 20 streams got %d", time.Since(killed), st.status)
		}
	}
	if a := s.send(t, short); !a.busy() {
		t.Errorf("the 21st at once got %d: %s", a.status, a.body)
	}
}

// killEnvoy kills the only Envoy of the system as a crash would.
func (s *system) killEnvoy(t *testing.T) {
	t.Helper()
	found := s.envoys(t)
	if len(found) != 1 {
		t.Fatalf("%d Envoys run, want 1", len(found))
	}
	if err := syscall.Kill(found[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestAStreamOfTwoMinutesKeepsItsSlot(t *testing.T) {
	t.Parallel()
	const lasts = 2 * time.Minute
	s := start(t, manifests(gateway, tier("single", "concurrency: 1"), holder("single", "single", "key-single")))
	began := time.Now()
	long := s.open(t, chat("key-single", prompt{stream: true, maxTokens: 200}, "x-demo-tokens: 121", "x-demo-token-delay: 1s"))
	if long.status != http.StatusOK {
		t.Fatalf("the stream got %d", long.status)
	}
	checks := time.NewTicker(time.Second)
	defer checks.Stop()
	for over := false; !over; {
		select {
		case <-checks.C:
		case <-long.ended:
			over = true
		}
		// The stream cannot have ended when an answer came that soon.
		if a := s.send(t, chat("key-single", prompt{})); !a.busy() && time.Since(began) < lasts {
			t.Fatalf("%s after the stream began another request got %d: %s", time.Since(began), a.status, a.body)
		}
	}
	if _, err := long.end(t); err != nil || time.Since(began) < lasts {
		t.Fatalf("the stream ended after %s: %v", time.Since(began), err)
	}
	// Long before the slot could expire by itself.
	s.settled(t, chat("key-single", prompt{}))
}

func TestARefusalForTooManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, manifests(gateway, tier("pair", "concurrency: 2", "{metric: Requests, per: Day, max: 100}"), holder("pair", "pair", "key-pair")))
	clearOf(t, 24*time.Hour)
	pair := s.openAll(t, 2, endless("key-pair"))
	const message = "Too many requests at once. Please retry after 1 seconds."
	for name, tc := range map[string]struct {
		request request
		want    string
	}{
		"chat":     {chat("key-pair", prompt{}), `{"error":{"type":"rate_limit_error","message":"` + message + `","code":"concurrency_limit_exceeded"}}`},
		"messages": {messages("key-pair", prompt{}), `{"type":"error","error":{"type":"rate_limit_error","message":"` + message + `"}}`},
	} {
		a := s.send(t, tc.request)
		if a.status != http.StatusTooManyRequests || a.body != tc.want || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d, Retry-After %q: %s\nwant %s", name, a.status, a.header.Get("Retry-After"), a.body, tc.want)
		}
		if used := a.number(t, "x-ratelimit-used"); used != 2 {
			t.Errorf("%s: %d requests used, want the 2 that were admitted", name, used)
		}
	}
	pair[0].cut()
	if a := s.settled(t, chat("key-pair", prompt{})); a.status != http.StatusOK {
		t.Errorf("after one of two has ended a request got %d: %s", a.status, a.body)
	}
}

// Counts of the day are kept when the process ends in order.
func TestARestartKeepsTheDaysCounts(t *testing.T) {
	t.Parallel()
	s := daily(t)
	before := s.spendSome(t, "first")
	s.stop(t, syscall.SIGTERM)
	s.start(t)
	s.checkSpent(t, before)
}

// Counters are written every second, so a crash after that loses nothing.
func TestACrashKeepsTheDaysCounts(t *testing.T) {
	t.Parallel()
	s := daily(t)
	before := s.spendSome(t, "first")
	s.awaitWritten(t, func() { s.pass(t, chat(keyBeside, prompt{})) })
	s.kill(t)
	s.start(t)
	s.checkSpent(t, before)
}

// awaitWritten waits until what is counted by now is in the file: it has been written twice from now on, because the first time may
// have begun before. Something else must be counted meanwhile.
func (s *system) awaitWritten(t *testing.T, count func()) {
	t.Helper()
	begun := s.writes(t)
	eventually(t, startMost, "the counters are written", func() bool {
		count()
		return s.writes(t) >= begun+2
	})
}

// writes is how often the counters have been written, which the file says: each of its first two pages names a transaction, and the
// later one is that of the last.
func (s *system) writes(t *testing.T) (last uint64) {
	t.Helper()
	const transaction = 64 // its place in such a page
	content, err := os.ReadFile(filepath.Join(s.dataDir, "counters.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{transaction, os.Getpagesize() + transaction} {
		last = max(last, endian.LittleEndian.Uint64(content[at:]))
	}
	return last
}

// A restart must not depend on manifests that somebody broke meanwhile: gateway, key and count go on.
func TestARestartOverBrokenManifestsGoesOn(t *testing.T) {
	t.Parallel()
	s := daily(t)
	before := s.spendSome(t, "first")
	s.stop(t, syscall.SIGTERM)
	s.write(t, "all.yaml", "kind: [\n")
	s.start(t)
	s.checkSpent(t, before)
}

// spent is what a key has used of its day.
type spent struct{ requests, tokens int64 }

func (s *system) spendSome(t *testing.T, model string) spent {
	t.Helper()
	var sum spent
	for i := range 7 {
		name := fmt.Sprintf("%s-%d", model, i)
		s.pass(t, chat(keyStreams, prompt{model: name, content: paragraph}))
		_, settled := s.settlement(t, name)
		sum.requests++
		sum.tokens += settled.number(t, "inputTokens") + settled.number(t, "outputTokens")
	}
	return sum
}

func (s *system) checkSpent(t *testing.T, before spent) {
	t.Helper()
	a := s.pass(t, chat(keyStreams, prompt{model: "after", maxTokens: 1}))
	if used := a.number(t, "x-ratelimit-used"); used != before.requests+1 {
		t.Errorf("after the restart %d requests are used, want %d and this one", used, before.requests)
	}
	reserved, _ := s.settlement(t, "after")
	want := tokensPerDay - before.tokens - reserved.number(t, "inputTokens") - reserved.number(t, "outputTokens")
	if got := a.number(t, "x-ratelimit-remaining-tokens"); got != want {
		t.Errorf("after the restart %d tokens remain, want %d", got, want)
	}
}
