package redis

import (
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"pgregory.net/rapid"
)

// TestWhoWaitsFirstGoesInTheNextBatch, and everybody else in one of the next, once; each is of one script, and within its bounds.
func TestWhoWaitsFirstGoesInTheNextBatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var p pipeline
		var waiting []*call
		for range rapid.IntRange(0, 200).Draw(t, "calls") {
			c := &call{question: question{
				script:  rapid.SampledFrom([]*rueidis.Lua{counters, failures}).Draw(t, "script"),
				request: strings.Repeat("x", rapid.IntRange(1, 1<<12).Draw(t, "bytes")),
			}}
			if p.waiting = append(p.waiting, c); rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
				c.over.Store(true)
			} else {
				waiting = append(waiting, c)
			}
		}
		for len(waiting) > 0 {
			var b batch
			if p.take(&b); len(b.calls) == 0 || b.calls[0] != waiting[0] {
				t.Fatalf("the first of %d who wait does not go first", len(waiting))
			}
			if size := len(strings.Join(b.requests, "")); len(b.calls) > batchMost || size > bytesMost || len(b.requests) != len(b.calls) {
				t.Fatalf("a batch has %d calls, and %d requests of %d bytes", len(b.calls), len(b.requests), size)
			}
			for _, c := range b.calls {
				if i := slices.Index(waiting, c); i < 0 || c.script != b.calls[0].script {
					t.Fatal("a call goes twice, or though its caller has gone, or beside one of another script")
				} else {
					waiting = slices.Delete(waiting, i, i+1)
				}
			}
		}
		if p.take(new(batch)); len(p.waiting) > 0 {
			t.Fatalf("%d wait who have gone", len(p.waiting))
		}
	})
}

// TestAWholeBatchWaitsForNobody: however far away Redis is, it does not bound how many calls are made.
func TestAWholeBatchWaitsForNobody(t *testing.T) {
	t.Parallel()
	p := pipeline{sent: few, batches: 1}
	for range batchMost - 1 {
		p.waiting = append(p.waiting, &call{})
	}
	if p.mayHave(p.batches + 1) {
		t.Error("less than a batch does not wait for the one that is on its way")
	}
	p.waiting = append(p.waiting, &call{})
	if !p.mayHave(p.batches + 1) {
		t.Error("a whole batch waits for the one that is on its way")
	}
}
