package envoy_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	demoFree = "demo-free"
	demoPro  = "demo-pro"
	perMin   = "{metric: Requests, per: Minute, max: 10}" // as the sample has it for demo-free
)

func TestQuickstartHeaders(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "quickstart"))
	for key, want := range map[string]map[string]string{
		demoFree: {
			"x-ratelimit-limit-requests": "10", "x-ratelimit-limit-tokens": "40000", "X-RateLimit-Limit": "10",
			"X-RateLimit-Resource": "chat", "X-Request-Priority": "1",
		},
		demoPro: {
			"x-ratelimit-limit-requests": "100", "x-ratelimit-limit-tokens": "1000000", "X-RateLimit-Limit": "100",
			"X-RateLimit-Resource": "chat", "X-Request-Priority": "3",
		},
	} {
		for _, r := range []request{chat(key, prompt{}), messages(key, prompt{})} {
			a := s.settled(t, r)
			now := time.Now().Unix()
			if a.status != http.StatusOK {
				t.Fatalf("%s%s: status %d: %s", key, r.path, a.status, a.body)
			}
			for header, value := range want {
				if diff := cmp.Diff([]string{value}, a.header.Values(header)); diff != "" {
					t.Errorf("%s%s: %s (-want +got):\n%s", key, r.path, header, diff)
				}
			}
			checkNumbers(t, key+r.path, a, now)
		}
	}
}

// checkNumbers demands that the headers of both dialects tell the same story.
func checkNumbers(t *testing.T, name string, a answer, now int64) {
	t.Helper()
	limit, used := a.number(t, "X-RateLimit-Limit"), a.number(t, "X-RateLimit-Used")
	for _, header := range []string{"X-RateLimit-Remaining", "x-ratelimit-remaining-requests"} {
		if got := a.number(t, header); got != limit-used || used < 1 {
			t.Errorf("%s: %s is %d after %d of %d", name, header, got, used, limit)
		}
	}
	reset := a.number(t, "X-RateLimit-Reset")
	if reset%60 != 0 || reset <= now-5 || reset > now+60 || reset != a.number(t, "x-ratelimit-reset-requests") {
		t.Errorf("%s: the resets are %d and %s at %d", name, reset, a.header.Get("x-ratelimit-reset-requests"), now)
	}
	if delta := a.number(t, "x-ratelimit-reset-tokens"); delta < 1 || delta > 60 {
		t.Errorf("%s: tokens reset in %d seconds", name, delta)
	}
	if left, most := a.number(t, "x-ratelimit-remaining-tokens"), a.number(t, "x-ratelimit-limit-tokens"); left >= most || left < most-5000 {
		t.Errorf("%s: %d of %d tokens remain", name, left, most)
	}
	if got := a.header.Get("Retry-After"); got != "" {
		t.Errorf("%s: Retry-After: %s", name, got)
	}
}

// untilRefused sends requests in turn, one after the other, until one is refused by a rate, and returns the refusal and how
// many were admitted in its minute.
func (s *system) untilRefused(t *testing.T, most int, turn ...request) (refusal answer, admitted int64) {
	t.Helper()
	in := map[int64]int64{}
	for i := range 3 * most { // the window may end on the way, twice on a very slow machine
		a := s.settled(t, turn[i%len(turn)])
		switch a.status {
		case http.StatusOK:
			in[a.window(t)]++
		case http.StatusTooManyRequests:
			return a, in[a.window(t)]
		default:
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	t.Fatalf("of %d requests none was refused", 3*most)
	return answer{}, 0
}

// window is the end of the minute in which an answer was counted, in whatever form the answer tells when requests reset.
func (a answer) window(t *testing.T) int64 {
	t.Helper()
	return windowIn(t, a.header)
}

func windowIn(t *testing.T, h http.Header) int64 {
	t.Helper()
	reset := numberIn(t, h, "x-ratelimit-reset-requests")
	if month := int64(31 * 24 * 60 * 60); reset <= month {
		reset += time.Now().Unix() // the answer has just come
	}
	return (reset + 30) / 60 * 60
}

func TestQuickstartLimitOfAMinute(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "quickstart"))
	a, admitted := s.untilRefused(t, 10, chat(demoFree, prompt{}))
	if admitted != 10 {
		t.Errorf("%d requests were admitted in the minute, want 10", admitted)
	}
	wait := a.number(t, "Retry-After")
	if wait < 1 || wait > 60 {
		t.Errorf("Retry-After is %d, want 1 to 60", wait)
	}
	want := fmt.Sprintf(`{"error":{"type":"rate_limit_error","message":"Rate limit exceeded. Please retry after %d seconds.","code":"rate_limit_exceeded"}}`, wait)
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Errorf("the refusal (-want +got):\n%s", diff)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the refusal has type %q", got)
	}
	for header, want := range map[string]int64{
		"X-RateLimit-Limit": 10, "X-RateLimit-Used": 10, "X-RateLimit-Remaining": 0, "x-ratelimit-remaining-requests": 0, "X-Request-Priority": 1,
	} {
		if got := a.number(t, header); got != want {
			t.Errorf("%s of the refusal is %d, want %d", header, got, want)
		}
	}
	if other := s.send(t, chat(demoPro, prompt{})); other.status != http.StatusOK {
		t.Errorf("another key got %d meanwhile: %s", other.status, other.body)
	}
}

// TestQuickstartLimitOfASlidingMinute needs no care for when the minute ends.
func TestQuickstartLimitOfASlidingMinute(t *testing.T) {
	t.Parallel()
	files := sample(t, "quickstart")
	name, content := edit(t, files, perMin, "{metric: Requests, per: Minute, max: 10, algorithm: SlidingWindow}")
	files[name] = content
	s := start(t, files)
	began := time.Now()
	for range 10 {
		if a := s.settled(t, chat(demoFree, prompt{})); a.status != http.StatusOK {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	a := s.settled(t, chat(demoFree, prompt{}))
	if a.status != http.StatusTooManyRequests {
		t.Fatalf("status %d, want 429: %s", a.status, a.body)
	}
	// The first of them is gone a minute after the end of its sub-window, which is a sixteenth of one.
	fits, now := a.number(t, "x-ratelimit-reset-requests"), time.Now().Unix()
	if fits < began.Unix()+60 || fits > now+65 { // rounded up, and now rounded down
		t.Errorf("the request fits at %d, want it about a minute after %d", fits, began.Unix())
	}
	if wait := a.number(t, "Retry-After"); wait < fits-now-1 || wait > 64 {
		t.Errorf("Retry-After is %d, and the request fits after %d seconds", wait, fits-now)
	}
}

func TestQuickstartThirdAtOnceAndUnknownKey(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, "quickstart"))
	pair := s.openAll(t, 2, endless(demoFree))
	for _, st := range pair {
		if st.status != http.StatusOK {
			t.Fatalf("one of two streams got %d", st.status)
		}
	}
	third := s.open(t, endless(demoFree))
	body, err := third.end(t)
	if err != nil || third.status != http.StatusTooManyRequests || third.header.Get("Retry-After") != "1" || !strings.Contains(body, `"code":"concurrency_limit_exceeded"`) {
		t.Errorf("the third stream got %d, Retry-After %q, %v: %s", third.status, third.header.Get("Retry-After"), err, body)
	}
	pair[0].cut()
	if a := s.settled(t, chat(demoFree, prompt{})); a.status != http.StatusOK {
		t.Errorf("after one stream has ended a request got %d: %s", a.status, a.body)
	}
	if a := s.send(t, chat("demo-nobody", prompt{})); a.status != http.StatusUnauthorized || !strings.Contains(a.body, `"code":"invalid_api_key"`) {
		t.Errorf("an unknown key got %d: %s", a.status, a.body)
	}
}

func TestQuickstartEditsHoldAtOnceAndKeepTheCount(t *testing.T) {
	t.Parallel()
	files := sample(t, "quickstart")
	s := start(t, files)
	reset, used := "", int64(0)
	ask := func() (limit int64) {
		a := s.settled(t, chat(demoFree, prompt{}))
		if a.status == http.StatusOK {
			used++
		}
		counted := a.number(t, "X-RateLimit-Used")
		if now := a.header.Get("X-RateLimit-Reset"); now != reset {
			reset, used = now, counted // another minute
		}
		if counted != used {
			t.Fatalf("%d requests are used, want %d", counted, used)
		}
		return a.number(t, "X-RateLimit-Limit")
	}
	for range 4 {
		ask()
	}
	for _, most := range []int64{1000, 3, 1001} { // raised, lowered below the count, raised again
		s.write(t, "tiers.yaml", s.edited(t, files, perMin, "{metric: Requests, per: Minute, max: "+strconv.FormatInt(most, 10)+"}"))
		eventually(t, soon, fmt.Sprintf("the limit is %d", most), func() bool { return ask() == most })
	}
	if s.HasEnded() || len(s.envoys(t)) != 1 {
		t.Error("something was restarted")
	}
}

func TestABrokenEditKeepsTheLastGoodState(t *testing.T) {
	t.Parallel()
	files := sample(t, "quickstart")
	s := start(t, files)
	const object, field = "RateLimitTier free", `spec.limits.rates\[\w+\].max`
	for name, tc := range map[string]struct{ after, says string }{
		"a wrong number":  {"{metric: Requests, per: Minute, max: -3}", object + ": " + field},
		"an unknown word": {"{metric: Requests, per: Minuet, max: 3}", object + ": " + `spec.limits.rates\[\w+\].per`},
		"broken YAML":     {"{metric: Requests, per: Minute, max: 3", ""},
	} {
		s.write(t, "tiers.yaml", s.edited(t, files, perMin, tc.after))
		rejected := regexp.MustCompile(`(?m)^  REJECTED  \S*/tiers\.yaml:\d+: ` + tc.says + `.*Keeping the last good version\.$`)
		line := ""
		eventually(t, soon, name+" is told", func() bool {
			line = rejected.FindString(s.Stdout.String())
			return line != ""
		})
		if a := s.settled(t, chat(demoFree, prompt{})); a.header.Get("X-RateLimit-Limit") != "10" {
			t.Errorf("%s: the limit is %q, want 10 as before: %d %s", name, a.header.Get("X-RateLimit-Limit"), a.status, a.body)
		}
		s.write(t, "tiers.yaml", files["tiers.yaml"])
		eventually(t, soon, name+" is told to be mended", func() bool {
			return strings.Contains(s.Stdout.String(), "  resolved  "+strings.TrimPrefix(line, "  REJECTED  "))
		})
	}
}

// edited is the one file of the sample in which before stands, with after in its place.
func (s *system) edited(t *testing.T, files map[string]string, before, after string) string {
	t.Helper()
	name, content := edit(t, files, before, after)
	if name != "tiers.yaml" {
		t.Fatalf("%q stands in %s, want tiers.yaml", before, name)
	}
	return content
}
