package demo

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Switches make a Provider misbehave. The zero value makes it behave.
type Switches struct {
	status     int // 0 and 200: none
	delay      time.Duration
	tokenDelay time.Duration
	tokens     *int // nil: the default
	noUsage    bool
	abort      *int // nil: never
	rateLimit  bool
	reset      bool
	cached     int
	reasoning  int
	failFirst  int // 0: none
	failID     string
	credential bool
}

// A knob is one switch: how it is written, what it does, and how it is turned.
type knob struct {
	example string
	does    string
	turn    func(s *Switches, value string) bool // false: not a value for it
}

var knobs = map[string]knob{
	"x-demo-status": {"503", "answer with this error, 400 to 599, without usage (200: do not)", func(s *Switches, v string) bool {
		return setNumber(&s.status, v, 599) && (s.status == http.StatusOK || s.status >= http.StatusBadRequest)
	}},
	"x-demo-delay": {"500ms", "wait before the headers, up to 1h", func(s *Switches, v string) bool {
		return setDelay(&s.delay, v)
	}},
	"x-demo-token-delay": {"100ms", "wait between the tokens of a stream, up to 1h", func(s *Switches, v string) bool {
		return setDelay(&s.tokenDelay, v)
	}},
	"x-demo-tokens": {"200", "produce so many tokens for each choice, 0 to 1000000", func(s *Switches, v string) bool {
		s.tokens = new(int)
		return setNumber(s.tokens, v, mostTokens)
	}},
	"x-demo-usage": {"none", "report no usage (full: report it)", func(s *Switches, v string) bool {
		return setEither(&s.noUsage, v, "none", "full")
	}},
	"x-demo-abort": {
		"10", "break the connection after so many streamed tokens, 0 to 1000000, or within a JSON body (off: do not)",
		func(s *Switches, v string) bool {
			if v == "off" {
				s.abort = nil
				return true
			}
			s.abort = new(int)
			return setNumber(s.abort, v, mostTokens)
		},
	},
	"x-demo-cached": {
		"40", "report so many of the input tokens, as far as there are, as read from a cache, 0 to 1000000",
		func(s *Switches, v string) bool { return setNumber(&s.cached, v, mostTokens) },
	},
	"x-demo-credential": {
		"on", "answer with a digest of each credential that came, in a header of this name (off: do not)",
		func(s *Switches, v string) bool { return setEither(&s.credential, v, "on", "off") },
	},
	"x-demo-reasoning": {
		"30", "let each choice take so many tokens of thought before it speaks, 0 to 1000000",
		func(s *Switches, v string) bool { return setNumber(&s.reasoning, v, mostTokens) },
	},
	"x-demo-fail-first": {
		"1", "answer the first so many requests by x-demo-status, or 503, and later ones normally, up to 1000000 (0: do not)",
		func(s *Switches, v string) bool { return setNumber(&s.failFirst, v, mostTokens) },
	},
	"x-demo-fail-id": {
		"retry-7", "let x-demo-fail-first count only the requests that say the same here, at most 128 bytes",
		func(s *Switches, v string) bool {
			s.failID = v
			return v != "" && len(v) <= 128
		},
	},
	"x-demo-ratelimit": {"on", "send rate limit headers of the provider's own (off: do not)", func(s *Switches, v string) bool {
		return setEither(&s.rateLimit, v, "on", "off")
	}},
	"x-demo-reset": {"on", "reset the connection before the headers (off: do not)", func(s *Switches, v string) bool {
		return setEither(&s.reset, v, "on", "off")
	}},
}

func setNumber(to *int, v string, most int) bool {
	n, err := strconv.Atoi(v)
	*to = n
	return err == nil && n >= 0 && n <= most
}

func setDelay(to *time.Duration, v string) bool {
	d, err := time.ParseDuration(v)
	*to = d
	return err == nil && d >= 0 && d <= time.Hour
}

func setEither(to *bool, v, yes, no string) bool {
	*to = v == yes
	return v == yes || v == no
}

// Set turns the switch of that name, in any case of letters, to a value as in a header. The error, after which s is
// unchanged, names the switch and an example; it does not repeat the value.
func (s *Switches) Set(name, value string) error {
	name = strings.ToLower(name)
	k, known := knobs[name]
	if !known {
		return fmt.Errorf("no switch has this name; there are %s", strings.Join(names(), ", "))
	}
	next := *s
	if !k.turn(&next, strings.TrimSpace(value)) {
		return fmt.Errorf(`%s (%s) cannot have this value; for example "%s: %s"`, name, k.does, name, k.example)
	}
	*s = next
	return nil
}

// over returns s with what the headers of a request say instead.
func (s Switches) over(h http.Header) (Switches, error) {
	for name, values := range h {
		if !strings.HasPrefix(name, "X-Demo-") {
			continue
		}
		for _, v := range values {
			if err := s.Set(name, v); err != nil {
				return Switches{}, &problem{http.StatusBadRequest, "invalid_switch", strings.ToLower(name), "Demo upstream: " + err.Error()}
			}
		}
	}
	return s, nil
}

func names() []string { return slices.Sorted(maps.Keys(knobs)) }

// Help lists the switches, a line each, for people.
func Help() string {
	var b strings.Builder
	b.WriteString("Headers of a request tell the demo upstream how to answer:\n\n")
	for _, n := range names() {
		fmt.Fprintf(&b, "  %-27s %s\n", n+": "+knobs[n].example, knobs[n].does)
	}
	return b.String()
}

// setRateLimits sends headers that a gateway must not let through, with numbers that nobody else would send.
func setRateLimits(h http.Header, now time.Time) {
	reset := now.Add(77 * time.Second).UTC()
	for _, metric := range []string{"requests", "tokens", "input-tokens", "output-tokens"} {
		h.Set("x-ratelimit-limit-"+metric, "7777777")
		h.Set("x-ratelimit-remaining-"+metric, "7777770")
		h.Set("x-ratelimit-reset-"+metric, "1m17s")
		h.Set("anthropic-ratelimit-"+metric+"-limit", "7777777")
		h.Set("anthropic-ratelimit-"+metric+"-remaining", "7777770")
		h.Set("anthropic-ratelimit-"+metric+"-reset", reset.Format(time.RFC3339))
	}
	h.Set("x-ratelimit-limit", "7777777")
	h.Set("x-ratelimit-remaining", "7777770")
	h.Set("x-ratelimit-reset", strconv.FormatInt(reset.Unix(), 10))
	h.Set("x-ratelimit-resource", "demo-upstream")
	h.Set("x-ratelimit-used", "7")
	h.Set("ratelimit", `"demo-upstream";r=7777770;t=77`)
	h.Set("ratelimit-policy", `"demo-upstream";q=7777777;w=77`)
	h.Set("retry-after", "77")
}
