package envoy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sized pads a chat so that its body has so many bytes, of which the service estimates a quarter as tokens.
func sized(t *testing.T, key string, bytes int, p prompt, header ...string) request {
	t.Helper()
	p.content = orElse(p.content, "x")
	missing := bytes - len(chat(key, p).body)
	if missing < 0 {
		t.Fatalf("the body has %d bytes too many", -missing)
	}
	p.content += strings.Repeat("x", missing)
	return chat(key, p, header...)
}

func TestOfFiveParallelRequestsTwoFitTheTokens(t *testing.T) {
	t.Parallel()
	s := start(t, manifests(gateway, tier("small", "{metric: Tokens, per: Hour, max: 100}"), holder("five", "small", "key-five")))
	clearOf(t, time.Hour)

	// 120 bytes are 30 tokens. The stream stops after its first token, so nothing is given back meanwhile.
	r := sized(t, "key-five", 120, prompt{maxTokens: 20, stream: true}, "x-demo-token-delay: 1h")
	admitted, refused := 0, 0
	for _, st := range s.openAll(t, 5, r) {
		switch st.status {
		case http.StatusOK:
			admitted++
		case http.StatusTooManyRequests:
			refused++
			checkTokensRefused(t, st)
		default:
			t.Errorf("status %d", st.status)
		}
	}
	if admitted != 2 || refused != 3 {
		t.Errorf("%d admitted and %d refused, want 2 and 3", admitted, refused)
	}
	eventually(t, soon, "two reservations are logged", func() bool { return len(s.reservations("gpt-4o")) == 2 })
	for _, e := range s.reservations("gpt-4o") {
		if e.number(t, "inputTokens") != 30 || e.number(t, "outputTokens") != 20 {
			t.Errorf("reserved %s + %s tokens, want 30 + 20", e["inputTokens"], e["outputTokens"])
		}
	}
}

func checkTokensRefused(t *testing.T, st *stream) {
	t.Helper()
	body, err := st.end(t)
	if err != nil || !strings.Contains(body, `"rate_limit_exceeded"`) {
		t.Errorf("the refusal is %q, %v", body, err)
	}
	if limit, left := numberIn(t, st.header, "x-ratelimit-limit-tokens"), numberIn(t, st.header, "x-ratelimit-remaining-tokens"); limit != 100 || left != 0 {
		t.Errorf("the refusal says %d of %d tokens remain, want 0 of 100", left, limit)
	}
	if want := fmt.Sprintf("retry after %s seconds", st.header.Get("Retry-After")); !strings.Contains(body, want) {
		t.Errorf("the refusal is %q, want it to say %q", body, want)
	}
}
