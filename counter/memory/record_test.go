package memory

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

// FuzzDecode shows that whatever a file holds is either a counter, and then only one value stands for it, or an error.
func FuzzDecode(f *testing.F) {
	now := time.Date(2024, time.February, 14, 0, 0, 0, 0, time.UTC)
	_, end := counter.Month.Bounds(now)
	f.Add([]byte(nil))
	for _, r := range []record{
		&calendar{calendarLayout, counter.Month, end.Unix(), counter.MaxCount},
		&sliding{slidingLayout, counter.SlidingHour, counter.SlidingHour.Sub(now), [ringSize]int64{counter.MaxCount - 1, ringSize - 1: 1}},
	} {
		valid := encode(r)
		f.Add(valid)
		f.Add(valid[:len(valid)-1])
		f.Add(append(valid, 0))
		f.Add(append([]byte{valid[0] + 1}, valid[1:]...))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decode(value)
		if err != nil {
			return
		}
		if !bytes.Equal(encode(r), value) {
			t.Errorf("%x is read as %+v, which is written as %x", value, r, encode(r))
		}
		if !kept(r.window()) {
			t.Fatalf("%x is read as %+v", value, r)
		}
		c := newCell(counter.Key{}, r.window(), 0)
		start, end := spanOf(r)
		r.restore(c, end.Add(-1))
		if !r.runs(start) || !r.runs(end.Add(-1)) || r.runs(end) || !r.over(end) || c.count(end.Add(-1)).Used < 0 {
			t.Errorf("%x is read as %+v, from %v to %v", value, r, start, end)
		}
		if got := encode(recordOf(c)); !bytes.Equal(got, value) {
			t.Errorf("%x is written as %x by the counter that it makes", value, got)
		}
	})
}

// spanOf is when some of what the record says counts.
func spanOf(r record) (start, end time.Time) {
	switch r := r.(type) {
	case *calendar:
		return r.span()
	case *sliding:
		return r.Window.Gone(r.Newest - 2*counter.SubWindows - 1), r.Window.Gone(r.Newest)
	}
	panic("another kind of record")
}

// TestTheFileStaysReadable holds the form of values, in which files of former versions keep counts.
func TestTheFileStaysReadable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]record{
		"\x01\x02\x00\x00\x00\x00\x65\xcc\xb3\xec\x00\x00\x00\x00\x00\x00\x01\x02": &calendar{1, counter.Minute, 1707914220, 258},
		"\x02\x08\x00\x00\x00\x00\x1b\x25\x29\x67\x00\x00\x00\x00\x00\x00\x01\x02" + strings.Repeat("\x00", 15*8) + "\x00\x00\x00\x00\x00\x00\x00\x03": &sliding{
			2, counter.SlidingMinute, 455420263, [ringSize]int64{258, ringSize - 1: 3},
		},
	} {
		if got, err := decode([]byte(text)); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%x is read as %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	none, some := [ringSize]int64{}, [ringSize]int64{1, ringSize - 1: 2}
	for _, good := range []record{
		&calendar{calendarLayout, counter.Minute, 60, 5},
		&sliding{slidingLayout, counter.SlidingMinute, 0, some},
		&sliding{slidingLayout, counter.SlidingHour, 1 << 20, none},
	} {
		if r, err := decode(encode(good)); err != nil || !cmp.Equal(r, good) {
			t.Fatalf("%+v is read as %+v, %v", good, r, err)
		}
	}
	for name, r := range map[string]record{
		"layout 0":                          &calendar{0, counter.Minute, 60, 5},
		"a newer layout":                    &calendar{slidingLayout + 1, counter.Minute, 60, 5},
		"the layout of another kind":        &calendar{slidingLayout, counter.Minute, 60, 5},
		"a window that is not kept":         &calendar{calendarLayout, counter.Second, 60, 5},
		"a slot":                            &calendar{calendarLayout, counter.InUse, 60, 5},
		"a window that slides":              &calendar{calendarLayout, counter.SlidingMinute, 60, 5},
		"an end within a window":            &calendar{calendarLayout, counter.Minute, 61, 5},
		"an end before 1970":                &calendar{calendarLayout, counter.Minute, -60, 5},
		"an end in an unlikely year":        &calendar{calendarLayout, counter.Minute, math.MaxInt64, 5},
		"a count below 0":                   &calendar{calendarLayout, counter.Minute, 60, -1},
		"sub-windows of layout 1":           &sliding{calendarLayout, counter.SlidingMinute, 9, some},
		"sub-windows of a newer layout":     &sliding{slidingLayout + 1, counter.SlidingMinute, 9, some},
		"sub-windows of a calendar unit":    &sliding{slidingLayout, counter.Minute, 9, some},
		"sub-windows that are not kept":     &sliding{slidingLayout, counter.SlidingSecond, 9, some},
		"sub-windows of a slot":             &sliding{slidingLayout, counter.InUse, 9, some},
		"sub-windows before 1970":           &sliding{slidingLayout, counter.SlidingMinute, -1, some},
		"sub-windows in an unlikely year":   &sliding{slidingLayout, counter.SlidingMinute, math.MaxInt64, some},
		"a sub-window below 0":              &sliding{slidingLayout, counter.SlidingMinute, 9, [ringSize]int64{5, -1}},
		"sub-windows whose sum has no room": &sliding{slidingLayout, counter.SlidingMinute, 9, [ringSize]int64{counter.MaxCount, 1}},
	} {
		if got, err := decode(encode(r)); err == nil {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}
