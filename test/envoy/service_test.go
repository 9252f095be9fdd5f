package envoy_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/test/program"
)

// apart is a system whose rate-limit service is a process of its own.
type apart struct {
	*system
	service *program.Process
	address string // of the service
}

const (
	answerTimeout = 2 * time.Second  // of Envoy, for an answer of the service
	givenUp       = 3 * time.Second  // the answer to a call
	hangMost      = 12 * time.Second // much longer than Envoy waits for an answer: 5 seconds
	heard         = 12 * time.Second // by when a heartbeat of a stream has come
)

// startApart starts both processes.
func startApart(t *testing.T, files map[string]string) *apart {
	t.Helper()
	s := &apart{system: prepare(t, files)}
	// An address that nobody else has, also while nobody listens there.
	s.address = fmt.Sprintf("127.1.%d.%d:8081", s.port>>8, s.port&0xff)
	s.startService(t)
	s.flags = []string{"--service", s.address}
	s.start(t)
	return s
}

// startService runs the service, whose data directory is the one of the rest, until it can be asked.
func (s *apart) startService(t *testing.T) {
	t.Helper()
	p := program.Start(t, exec.Command(binary, "ratelimit", "--manifests", relative(t, s.manifests), "--data-dir", relative(t, s.dataDir),
		"--address", s.address, "--log-level", "debug"))
	s.service = p
	t.Cleanup(func() {
		if s.service == p && !p.HasEnded() {
			p.EndsInOrder(t, syscall.SIGTERM)
		}
	})
	p.Says(t, `The rate-limit service (listens on `+regexp.QuoteMeta(s.address)+`)\. `)
}

// freeze stops the service until it is told to go on.
func (s *apart) freeze(t *testing.T) {
	t.Helper()
	if err := s.service.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the service has stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.service.PID()))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
}

func (s *apart) thaw(t *testing.T) {
	t.Helper()
	if err := s.service.Resume(); err != nil {
		t.Fatal(err)
	}
}

// ledger is the system as the log of the service shows it.
func (s *apart) ledger() *system { return &system{Process: s.service} }

const (
	keyLoad  = "key-load"
	keySlots = "key-slots"
	keyLost  = "key-lost"
)

func failing(when string) map[string]string {
	return manifests(
		strings.Replace(gateway, "\nspec:\n", "\nspec:\n  failure: {whenServiceUnavailable: "+when+"}\n", 1),
		tier("load", "{metric: Requests, per: Day, max: 1000000}", "{metric: Tokens, per: Day, max: 100000000}"), holder("load", "load", keyLoad),
		tier("slots", "{metric: Requests, per: Day, max: 1000000}", "concurrency: 2"), holder("slots", "slots", keySlots),
		tier("lost", "{metric: Requests, per: Day, max: 1000000}", "{metric: Tokens, per: Day, max: 1000000}"), holder("lost", "lost", keyLost))
}

// A trial is a service that fails under load, and comes back.
type trial struct {
	*apart
	deny bool
	load *load

	slots    []*stream // both that keySlots may have
	lost     *stream   // ends while the service is away
	reserved int64     // for lost, in tokens

	written    time.Time // what was counted before is certainly in the file
	away, back time.Time // when the service was certainly gone, and when it was called back
}

// TestTheServiceFailsUnderLoad kills and hangs the service, and counts.
func TestTheServiceFailsUnderLoad(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"Deny", "Allow"} {
		t.Run("killed/"+when, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t, when)
			x.kill(t)
			x.checkAway(t)
			x.startService(t)
			x.checkBack(t)
			x.checkCountsOfAKill(t)
			x.checkTheLostSettle(t)
			x.checkSlots(t, heard)
		})
		t.Run("hung/"+when, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t, when)
			x.hang(t)
			x.checkAway(t)
			x.thaw(t)
			x.checkBack(t)
			x.checkCountsOfAHang(t)
			x.checkTheLostSettle(t)
			x.checkSlots(t, 0)
		})
	}
}

func newTrial(t *testing.T, when string) *trial {
	t.Helper()
	x := &trial{apart: startApart(t, failing(when)), deny: when == "Deny"}
	clearOf(t, 24*time.Hour)
	x.slots = x.openAll(t, 2, endless(keySlots))
	x.lost = x.open(t, chat(keyLost, prompt{model: "lost", stream: true, maxTokens: 5000}, "x-demo-token-delay: 1h"))
	for _, st := range append(x.slots, x.lost) {
		if st.status != http.StatusOK {
			t.Fatalf("a stream got %d", st.status)
		}
	}
	eventually(t, soon, "the log tells of the stream", func() bool { return len(x.ledger().reservations("lost")) == 1 })
	lost := x.ledger().reservations("lost")[0]
	x.reserved = lost.number(t, "inputTokens") + lost.number(t, "outputTokens")
	x.load = x.system.load(t, 10*time.Millisecond, chat(keyLoad, prompt{}))
	eventually(t, startMost, "the load is steady", func() bool {
		return len(x.load.attempts(func(a attempt) bool { return a.status == http.StatusOK })) >= 50
	})
	x.written = time.Now()
	x.awaitWritten(t, func() {}) // The load is counted.
	return x
}

func (x *trial) kill(t *testing.T) {
	t.Helper()
	if err := x.service.Kill(); err != nil {
		t.Fatal(err)
	}
	x.away = time.Now()
}

func (x *trial) hang(t *testing.T) {
	t.Helper()
	x.freeze(t)
	x.away = time.Now()
}

// checkAway lets requests come in while the service is away, and a stream end.
func (x *trial) checkAway(t *testing.T) {
	t.Helper()
	since := func() []attempt { return x.load.attempts(between(x.away, time.Now())) }
	eventually(t, startMost, "requests are answered without the service, and Envoy has given up those that it has asked about", func() bool {
		return len(since()) >= 50 && time.Since(x.away) > givenUp
	})
	x.lost.cut()
	if a := x.send(t, chat("a-key-that-nobody-holds", prompt{})); (a.status == http.StatusOK) == x.deny {
		t.Errorf("with Deny %t a key that nobody holds got %d", x.deny, a.status)
	}
	had := len(since())
	eventually(t, startMost, "more requests are answered", func() bool { return len(since()) >= had+25 })
	x.back = time.Now()
}

// answeredAway checks one answer that was given while the service was away.
func (x *trial) answeredAway(a attempt) string {
	const body = `{"error":{"code":"rate_limiter_unavailable","message":"Rate limiting is unavailable. Please retry after 2 seconds.","type":"service_unavailable"}}`
	switch {
	case a.err != nil:
		return a.err.Error()
	case a.limited():
		return "it tells limits"
	case a.took() > hangMost:
		return "it took " + a.took().String()
	case x.deny && (a.status != http.StatusServiceUnavailable || strings.TrimSpace(a.body) != body || a.header.Get("Retry-After") != "2"):
		return fmt.Sprintf("it is %d, Retry-After %q: %s", a.status, a.header.Get("Retry-After"), a.body)
	case !x.deny && a.status != http.StatusOK:
		return fmt.Sprintf("it is %d: %s", a.status, a.body)
	}
	return ""
}

// checkBack waits until everything is limited again, and checks what was answered meanwhile.
func (x *trial) checkBack(t *testing.T) {
	t.Helper()
	back := time.Now()
	eventually(t, startMost, "all requests are limited again", func() bool {
		all := x.load.attempts(func(a attempt) bool { return a.began.After(back) })
		if len(all) < 25 {
			return false
		}
		for _, a := range all[len(all)-25:] {
			if !a.limited() {
				return false
			}
		}
		return true
	})
	x.load.stop()
	// What had no answer yet when the service was called back may have got one of the service.
	away := x.load.attempts(func(a attempt) bool { return a.began.After(x.away) && a.ended.Before(x.back) })
	for _, a := range away {
		if wrong := x.answeredAway(a); wrong != "" {
			t.Errorf("an answer %s after the service was gone: %s", a.began.Sub(x.away), wrong)
		}
	}
	for _, a := range x.load.attempts(func(attempt) bool { return true }) {
		if a.err != nil || a.took() > hangMost {
			t.Errorf("a request %s after the service was gone took %s: %v", a.began.Sub(x.away), a.took(), a.err)
		}
	}
	median, longest := spread(away)
	first := x.load.attempts(func(a attempt) bool { return a.began.After(back) && a.limited() })[0]
	t.Logf("away: %d requests, p50 %s, max %s; limited again %s after the service was called back", len(away), median, longest, first.ended.Sub(back).Round(time.Millisecond))
}

// used is how many requests of the load are counted, without the one that asks.
func (x *trial) used(t *testing.T) int64 {
	t.Helper()
	return x.pass(t, chat(keyLoad, prompt{})).number(t, "x-ratelimit-used") - 1
}

// The counts are those that were written last before the kill, and what came after.
func (x *trial) checkCountsOfAKill(t *testing.T) {
	t.Helper()
	before := x.load.attempts(func(a attempt) bool { return a.limited() && a.began.Before(x.away) })
	after := x.load.attempts(func(a attempt) bool { return a.limited() && a.began.After(x.away) })
	sent := x.load.attempts(func(a attempt) bool { return a.began.Before(x.away) })
	kept := x.used(t) - int64(len(after))
	var old int64
	for _, a := range before {
		if a.ended.Before(x.written) {
			old++
		}
	}
	// What the service answered too late for Envoy when it was back is counted too.
	late := int64(len(x.load.attempts(x.tooLate)))
	if kept < old || kept > int64(len(sent))+late {
		t.Errorf("of %d requests before the kill %d are counted after it; %d of them were in the file", len(before), kept, old)
	}
	t.Logf("%d requests were counted before the kill, and %d of them after it", len(before), kept)
}

// tooLate is a request that the service may have counted when it was back, and answered when Envoy had given up.
func (x *trial) tooLate(a attempt) bool {
	return a.ended.After(x.back) && !a.limited() && a.took() >= answerTimeout
}

// Nothing is lost, and nobody is charged for what the service saw too late: at most what it was about to answer as it stopped, or
// answered too late for Envoy when it went on, as on a machine that is busy with others.
func (x *trial) checkCountsOfAHang(t *testing.T) {
	t.Helper()
	counted := int64(len(x.load.attempts(attempt.limited)))
	dying := int64(len(x.load.attempts(func(a attempt) bool { return a.began.Before(x.away) && a.ended.After(x.away) && !a.limited() })))
	late := int64(len(x.load.attempts(x.tooLate)))
	used := x.used(t)
	if used < counted || used > counted+dying+late {
		t.Errorf("%d requests are counted, want the %d that were limited, and at most %d that were under way, and %d that Envoy gave up later", used, counted, dying, late)
	}
	t.Logf("%d requests were limited and %d are counted; %d were under way when the service stopped", counted, used, dying)
}

// What ends while the service is away stays charged with what it reserved.
func (x *trial) checkTheLostSettle(t *testing.T) {
	t.Helper()
	a := x.pass(t, chat(keyLost, prompt{model: "after", maxTokens: 1}))
	reserved, _ := x.ledger().settlement(t, "after")
	want := 1_000_000 - x.reserved - reserved.number(t, "inputTokens") - reserved.number(t, "outputTokens")
	if got := a.number(t, "x-ratelimit-remaining-tokens"); got != want {
		t.Errorf("%d tokens remain, want %d: %d stay reserved for the stream that ended while the service was away", got, want, x.reserved)
	}
}

// Streams that went on hold their slots again within a heartbeat, or held them all the time. When they end, that counts.
func (x *trial) checkSlots(t *testing.T, within time.Duration) {
	t.Helper()
	short := chat(keySlots, prompt{})
	// Some in a row: one may be refused for those before it, which have just ended.
	inARow := 0
	eventually(t, within+soon, "the streams hold their slots", func() bool {
		inARow++
		if !x.send(t, short).busy() {
			inARow = 0
		}
		return inARow == 10
	})
	t.Logf("%s after the service was called back the streams hold their slots", time.Since(x.back).Round(time.Millisecond))
	x.slots[0].cut()
	eventually(t, soon, "a slot is free", func() bool { return !x.send(t, short).busy() })
	x.slots[1].cut()
}

// A service that stands still for a moment, as on a machine that is short of processors, is not taken for one that is out.
func TestAnAnswerIsWaitedForUnlessTheServiceHangs(t *testing.T) {
	t.Parallel()
	s := startApart(t, manifests(gateway, tier("plan", "{metric: Requests, per: Day, max: 1000}"), holder("load", "plan", keyLoad)))
	clearOf(t, 24*time.Hour)
	short := chat(keyLoad, prompt{})
	s.pass(t, short)
	s.freeze(t)
	done := make(chan answer, 1)
	go func() {
		a, err := s.try(t.Context(), short)
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	<-time.After(answerTimeout / 3)
	s.thaw(t)
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("the request that waited got %d, want 200: %s", a.status, a.body)
	}
	if a := s.send(t, short); a.status != http.StatusOK || a.number(t, "x-ratelimit-remaining-requests") != 997 {
		t.Errorf("the next one got %d, want 200, and the third of 1000: %s", a.status, a.body)
	}
}

// Where requests may wait for a model Envoy waits with them for an answer, and yet not for a service that hangs.
func TestAHungServiceIsNoticedWhereRequestsMayWait(t *testing.T) {
	t.Parallel()
	s := startApart(t, manifests(gateway, model("held", "{concurrentRequests: 1, queue: {maxLength: 500, maxWaitSeconds: 120}}"),
		patient("patient", "High"), holder("patient", "patient", keyLoad)))
	r := chat(keyLoad, prompt{model: "held", stream: true}, "x-demo-token-delay: 1h")
	holds := s.open(t, r)
	short := chat(keyLoad, prompt{model: "other"})
	s.pass(t, short)

	s.freeze(t)
	began := time.Now()
	first := s.send(t, short)
	if first.status != http.StatusServiceUnavailable || time.Since(began) > hangMost {
		t.Errorf("a request to a hung service got %d after %s, want 503 within %s: %s", first.status, time.Since(began), hangMost, first.body)
	}
	t.Logf("the first request got its answer after %s", time.Since(began).Round(time.Millisecond))
	s.thaw(t)
	eventually(t, startMost, "the service is asked again", func() bool { return s.send(t, short).status == http.StatusOK })
	holds.cut()
	if st := s.open(t, r); st.status != http.StatusOK {
		t.Errorf("once the model was free a request for it got %d", st.status)
	}
}
