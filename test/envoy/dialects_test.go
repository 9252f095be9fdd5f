package envoy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/google/go-cmp/cmp"
)

// everyDialect is the gateway that speaks all of them.
var everyDialect = strings.Replace(gateway, "    - {type: PerResource}\n", "    - {type: PerResource}\n    - {type: IETF}\n    - {type: Anthropic}\n", 1)

// A limitItem is an item of RateLimit or RateLimit-Policy: its name and parameters.
type limitItem struct {
	Name       string
	Parameters map[string]any
}

// limitItems reads a header as any client would that has a library for RFC 9651. There must be one line of it.
func limitItems(t *testing.T, name string, a answer, header string) []limitItem {
	t.Helper()
	values := a.header.Values(header)
	list, err := httpsfv.UnmarshalList(values)
	if err != nil || len(values) != 1 {
		t.Fatalf("%s: %s is %q: %v", name, header, values, err)
	}
	var items []limitItem
	for _, member := range list {
		item := member.(httpsfv.Item)                                //nolint:forcetypeassert // The draft wants Items,
		read := limitItem{item.Value.(string), make(map[string]any)} //nolint:forcetypeassert // which are Strings.
		for _, p := range item.Params.Names() {
			read.Parameters[p], _ = item.Params.Get(p)
		}
		items = append(items, read)
	}
	return items
}

// All dialects tell the same story, and none the provider's.
func TestEveryDialectComesThrough(t *testing.T) {
	t.Parallel()
	const most = 4
	s := start(t, manifests(everyDialect,
		tier("daily", fmt.Sprintf("{metric: Requests, per: Day, max: %d}", most), "{metric: OutputTokens, per: Day, max: 9007199254740991}",
			"{metric: Tokens, per: Day, max: 1000000}", "concurrency: 3"),
		holder("streams", "daily", keyStreams)))
	clearOf(t, 24*time.Hour)
	const theirs = "x-demo-ratelimit: on"
	var used int64
	for _, tc := range []struct {
		name   string
		send   request
		status int
	}{
		{"messages", messages(keyStreams, prompt{}, theirs), http.StatusOK},
		{"messages stream", messages(keyStreams, prompt{stream: true}, theirs), http.StatusOK},
		{"chat", chat(keyStreams, prompt{}, theirs), http.StatusOK},
		{"the provider's own 429", messages(keyStreams, prompt{}, theirs, "x-demo-status: 429"), http.StatusTooManyRequests},
		{"our 429 of messages", messages(keyStreams, prompt{}, theirs), http.StatusTooManyRequests},
		{"our 429 of chat", chat(keyStreams, prompt{}, theirs), http.StatusTooManyRequests},
	} {
		before := time.Now()
		a := s.settled(t, tc.send)
		if a.status != tc.status {
			t.Fatalf("%s: status %d: %s", tc.name, a.status, a.body)
		}
		used = min(used+1, most)
		checkDialects(t, tc.name, a, most, most-used, before)
		if ours := strings.HasPrefix(tc.name, "our"); ours != (a.header.Get("Retry-After") != "77" && a.status != http.StatusOK) {
			t.Errorf("%s: Retry-After is %q", tc.name, a.header.Get("Retry-After"))
		}
	}
}

func checkDialects(t *testing.T, name string, a answer, most, left int64, before time.Time) {
	t.Helper()
	reset := a.number(t, "x-ratelimit-reset-requests") // the end of the day in every dialect
	midnight := time.Unix(reset, 0).UTC().Format(time.RFC3339)
	if !strings.HasSuffix(midnight, "T00:00:00Z") {
		t.Errorf("%s: the day ends at %s", name, midnight)
	}
	tokens := a.number(t, "x-ratelimit-remaining-tokens")
	quotas := limitItems(t, name, a, "RateLimit-Policy")
	want := []limitItem{
		{"requests-day", map[string]any{"q": most, "w": int64(86400)}},
		{"tokens-day", map[string]any{"q": int64(1_000_000), "qu": "tokens", "w": int64(86400)}},
		{"output-tokens-day", map[string]any{"q": int64(999_999_999_999_999), "qu": "output-tokens", "w": int64(86400)}},
		{"concurrent-requests", map[string]any{"q": int64(3), "qu": "concurrent-requests"}},
	}
	if diff := cmp.Diff(want, quotas); diff != "" {
		t.Errorf("%s: RateLimit-Policy (-want +got):\n%s", name, diff)
	}
	rest := limitItems(t, name, a, "RateLimit")
	wait, _ := rest[0].Parameters["t"].(int64)
	if earliest, latest := reset-time.Now().Unix()-1, reset-before.Unix()+1; wait < max(earliest, 1) || wait > latest {
		t.Errorf("%s: the window ends in %d seconds, want %d to %d", name, wait, earliest, latest)
	}
	want = []limitItem{
		{"requests-day", map[string]any{"r": left, "t": wait}},
		{"tokens-day", map[string]any{"r": tokens, "t": wait}},
		{"output-tokens-day", map[string]any{"r": int64(999_999_999_999_999), "t": wait}},
		{"concurrent-requests", map[string]any{"r": rest[len(rest)-1].Parameters["r"]}},
	}
	if diff := cmp.Diff(want, rest); diff != "" {
		t.Errorf("%s: RateLimit (-want +got):\n%s", name, diff)
	}
	for header, want := range map[string]string{
		"requests-limit": fmt.Sprint(most), "requests-remaining": fmt.Sprint(left), "requests-reset": midnight,
		"tokens-limit": "1000000", "tokens-remaining": fmt.Sprint(tokens), "tokens-reset": midnight,
		"output-tokens-limit": "9007199254740991", "output-tokens-reset": midnight,
	} {
		if diff := cmp.Diff([]string{want}, a.header.Values("anthropic-ratelimit-"+header)); diff != "" {
			t.Errorf("%s: anthropic-ratelimit-%s (-want +got):\n%s", name, header, diff)
		}
	}
	for header, values := range a.header {
		told := strings.Join(values, ",")
		if strings.Contains(told, "77777") || strings.Contains(told, "demo-upstream") || strings.HasPrefix(header, "Anthropic-Ratelimit-Input") {
			t.Errorf("%s: the client sees the provider's %s: %s", name, header, told)
		}
	}
}
