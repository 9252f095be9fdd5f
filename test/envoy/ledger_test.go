package envoy_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// An entry is one line of the log, as attributes.
type entry map[string]string

var attribute = regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*"|\S+)`)

func entryOf(line string) entry {
	e := entry{}
	for _, m := range attribute.FindAllStringSubmatch(line, -1) {
		value := m[2]
		if plain, err := strconv.Unquote(value); err == nil {
			value = plain
		}
		e[m[1]] = value
	}
	return e
}

func (e entry) number(t *testing.T, name string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(e[name], 10, 64)
	if err != nil {
		t.Fatalf("attribute %s is %q, want a number: %v", name, e[name], e)
	}
	return n
}

// reservations are what was reserved for a model, oldest first.
func (s *system) reservations(model string) []entry {
	return s.entries(func(e entry) bool { return e["msg"] == "reserved" && e["model"] == model })
}

func (s *system) entries(wanted func(entry) bool) []entry {
	var found []entry
	for line := range strings.Lines(s.Stderr.String()) {
		if !strings.HasPrefix(line, "time=") {
			continue // Envoy's
		}
		if e := entryOf(line); wanted(e) {
			found = append(found, e)
		}
	}
	return found
}

// settlement waits until the only request for a model is settled, and returns what was reserved and what it cost.
func (s *system) settlement(t *testing.T, model string) (reserved, settled entry) {
	t.Helper()
	eventually(t, soon, "the request for "+model+" is settled", func() bool {
		all := s.reservations(model)
		if len(all) > 1 {
			t.Fatalf("%d requests were made for %s, want 1", len(all), model)
		}
		if len(all) == 0 {
			return false // what is logged arrives some time after the answer
		}
		reserved = all[0]
		of := s.entries(func(e entry) bool { return e["msg"] == "settled" && e["lease"] == reserved["lease"] })
		if len(of) > 1 {
			t.Fatalf("the request for %s was settled %d times", model, len(of))
		}
		if len(of) == 1 {
			settled = of[0]
		}
		return len(of) == 1
	})
	return reserved, settled
}
