package ratelimit

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// Nobody is told what the client before was.
func TestHeadersAreUsedAgainEmpty(t *testing.T) {
	t.Parallel()
	for range 10 {
		h := newHeaders()
		if len(h.fields) > 0 {
			t.Fatalf("new headers hold %v", h.list())
		}
		h.addText("X-RateLimit-Resource", "chat")
		h.free()
	}
}

// A reset is never before the window's end.
func TestATrioIsRoundedUp(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, time.February, 28, 23, 59, 59, 400_000_000, time.UTC)
	r := &report{now: now, plan: &plan{shape: newShape([]policy.Limit{{Max: math.MaxInt64}})}, counts: []counter.Count{{Used: 1}}}
	for reset, wants := range map[time.Time][]string{
		now.Add(200 * time.Millisecond): {"1709164800", "1", "1s", "2024-02-29T00:00:00Z"},
		now.Add(600 * time.Millisecond): {"1709164800", "1", "1s", "2024-02-29T00:00:00Z"},
		now.Add(601 * time.Millisecond): {"1709164801", "1", "1s", "2024-02-29T00:00:01Z"},
		now.Add(61 * time.Second):       {"1709164861", "61", "1m1s", "2024-02-29T00:01:01Z"},
	} {
		r.counts[0].Reset = reset
		for form, want := range wants {
			var got headers
			r.tell(&got, &trio{"l", "r", "t"}, 0, policy.Reset(form))
			if diff := cmp.Diff([]Header{{"l", "9223372036854775807"}, {"r", "9223372036854775806"}, {"t", want}}, got.list()); diff != "" {
				t.Errorf("reset %s in form %d (-want +got):\n%s", reset, form, diff)
			}
		}
	}
}
