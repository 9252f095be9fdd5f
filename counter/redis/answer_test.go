package redis

import (
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// FuzzAnswer reads what may come from something that is not our script: it is an error, or counts that can be.
func FuzzAnswer(f *testing.F) {
	limits := make([]counter.Limit, 0, 3)
	for i, w := range []counter.Window{counter.Minute, counter.InUse, counter.SlidingHour} {
		limits = append(limits, counter.Limit{Key: counter.Key{byte(i)}, Window: w, Max: 10})
	}
	g := (&Store{}).group(partsOf(limits), take)[0]
	answer := []byte{byte(admitted)}
	for i := range 3 {
		answer = appendNumber(appendNumber(answer, int64(i)), moment(limits[i].Window, time.Unix(1_700_000_000, 0)))
	}
	f.Add(string(answer))
	f.Add("")
	f.Add(string(answer[:17]))
	q := question{group: &g, request: string(header{mode: take}.request(&g, func(int, *member) amount { return amount{1, 1} }))}
	f.Fuzz(func(t *testing.T, answer string) {
		took := q.took(answer)
		if took {
			g.undo(q.request, answer) // unread, as when nobody waits for it any more
		}
		counts := make([]counter.Count, 3)
		st, err := g.read(answer, []int64{1, 1, 1}, counts)
		if err != nil {
			if st != refused {
				t.Errorf("what cannot be read is said to be %d", st)
			}
			return
		}
		for i, c := range counts {
			if c.Used < 0 || c.Reset.Year() > 10000 {
				t.Errorf("counter %d holds %+v", i, c)
			}
		}
		if took != (st == admitted) {
			t.Errorf("an answer that says %d is taken for one that took: %t", st, took)
		}
	})
}

func FuzzBlock(f *testing.F) {
	f.Add(string(make([]byte, blockSize)))
	f.Fuzz(func(_ *testing.T, s string) {
		(&Store{}).Failures().hear(s)
		_, _ = readBlock(s)
	})
}
