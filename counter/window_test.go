package counter_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
)

func TestBounds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		window          counter.Window
		now, start, end string
	}{
		"second":                      {counter.Second, "2024-02-29T12:34:56.789Z", "2024-02-29T12:34:56Z", "2024-02-29T12:34:57Z"},
		"minute":                      {counter.Minute, "2024-02-29T12:34:56.789Z", "2024-02-29T12:34:00Z", "2024-02-29T12:35:00Z"},
		"hour":                        {counter.Hour, "2024-02-29T12:34:56.789Z", "2024-02-29T12:00:00Z", "2024-02-29T13:00:00Z"},
		"day, the last of a month":    {counter.Day, "2024-02-29T12:34:56.789Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"},
		"month of 29 days":            {counter.Month, "2024-02-29T12:34:56.789Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"},
		"month of 28 days":            {counter.Month, "2023-02-28T23:59:59.999Z", "2023-02-01T00:00:00Z", "2023-03-01T00:00:00Z"},
		"month, the last of a year":   {counter.Month, "2024-12-31T23:59:59.999Z", "2024-12-01T00:00:00Z", "2025-01-01T00:00:00Z"},
		"start belongs to the window": {counter.Month, "2024-12-01T00:00:00Z", "2024-12-01T00:00:00Z", "2025-01-01T00:00:00Z"},
		"day of another zone":         {counter.Day, "2024-03-01T05:00:00+13:45", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"},
		"month of another zone":       {counter.Month, "2024-02-29T23:00:00-08:00", "2024-03-01T00:00:00Z", "2024-04-01T00:00:00Z"},
		"hour of a half hour zone":    {counter.Hour, "2024-02-29T12:15:00+05:30", "2024-02-29T06:00:00Z", "2024-02-29T07:00:00Z"},
		"minute before 1970":          {counter.Minute, "1969-12-31T23:59:30Z", "1969-12-31T23:59:00Z", "1970-01-01T00:00:00Z"},
		"start before 1970":           {counter.Day, "1969-12-31T00:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
		"in use":                      {counter.InUse, "2024-02-29T12:34:56.789Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
		"a window that slides":        {counter.SlidingHour, "2024-02-29T12:34:56.789Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start, end := test.window.Bounds(at(t, test.now))
			if got := start.Format(time.RFC3339Nano); got != test.start {
				t.Errorf("start is %s, want %s", got, test.start)
			}
			if got := end.Format(time.RFC3339Nano); got != test.end {
				t.Errorf("end is %s, want %s", got, test.end)
			}
		})
	}
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	now, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// TestBoundsTile shows that every moment lies in its window and that windows follow one another without a gap.
func TestBoundsTile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := counter.Window(rapid.Uint8Range(uint8(counter.Second), uint8(counter.Month)).Draw(t, "window"))
		now := time.Unix(rapid.Int64Range(-1<<35, 1<<35).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		start, end := w.Bounds(now)
		if now.Before(start) || !now.Before(end) {
			t.Fatalf("%v lies outside of its %v, %v to %v", now, w, start, end)
		}
		for _, edge := range []time.Time{start, end.Add(-1)} {
			if s, e := w.Bounds(edge); s != start || e != end {
				t.Fatalf("%v lies in the %v %v to %v, want %v to %v", edge, w, s, e, start, end)
			}
		}
		if s, _ := w.Bounds(end); s != end {
			t.Fatalf("the next %v begins at %v, want %v", w, s, end)
		}
	})
}

// TestSubWindows gives the first and the last moment at which what was taken at a time counts.
func TestSubWindows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		window            counter.Window
		now, begins, gone string
	}{
		"second":               {counter.SlidingSecond, "2024-02-29T12:34:56.789Z", "2024-02-29T12:34:56.75Z", "2024-02-29T12:34:57.8125Z"},
		"minute":               {counter.SlidingMinute, "2024-02-29T12:34:56.789Z", "2024-02-29T12:34:56.25Z", "2024-02-29T12:36:00Z"},
		"hour":                 {counter.SlidingHour, "2024-02-29T12:34:56.789Z", "2024-02-29T12:33:45Z", "2024-02-29T13:37:30Z"},
		"hour of another zone": {counter.SlidingHour, "2024-02-29T18:04:56.789+05:30", "2024-02-29T12:33:45Z", "2024-02-29T13:37:30Z"},
		"second before 1970":   {counter.SlidingSecond, "1969-12-31T23:59:59.99Z", "1969-12-31T23:59:59.9375Z", "1970-01-01T00:00:01Z"},
		"minute before 1970":   {counter.SlidingMinute, "1969-12-31T23:58:59.99Z", "1969-12-31T23:58:56.25Z", "1970-01-01T00:00:00Z"},
		"in a late year":       {counter.SlidingMinute, "9999-12-31T23:58:59.99Z", "9999-12-31T23:58:56.25Z", "10000-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := test.window.Sub(at(t, test.now))
			begins := test.window.Gone(sub - counter.SubWindows - 1)
			if got := begins.Format(time.RFC3339Nano); got != test.begins {
				t.Errorf("its sub-window begins at %s, want %s", got, test.begins)
			}
			if got := test.window.Gone(sub).Format(time.RFC3339Nano); got != test.gone {
				t.Errorf("it is gone at %s, want %s", got, test.gone)
			}
		})
	}
}

// TestSubWindowsTile shows that every moment lies in its sub-window, that they follow one another without a gap, and that
// each counts for the unit and itself.
func TestSubWindowsTile(t *testing.T) {
	t.Parallel()
	units := [...]time.Duration{
		counter.SlidingSecond: time.Second, counter.SlidingMinute: time.Minute, counter.SlidingHour: time.Hour,
	}
	rapid.Check(t, func(t *rapid.T) {
		w := counter.Window(rapid.Uint8Range(uint8(counter.SlidingSecond), uint8(counter.SlidingHour)).Draw(t, "window"))
		now := time.Unix(rapid.Int64Range(-1<<35, 1<<35).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		sub := w.Sub(now)
		start := w.Gone(sub - counter.SubWindows - 1)
		end := start.Add(units[w] / counter.SubWindows)
		if now.Before(start) || !now.Before(end) {
			t.Fatalf("%v lies outside of sub-window %d of a %v, %v to %v", now, sub, w, start, end)
		}
		if first, last, next := w.Sub(start), w.Sub(end.Add(-1)), w.Sub(end); first != sub || last != sub || next != sub+1 {
			t.Fatalf("sub-window %d of a %v is %d at its start, %d at its end and %d after it", sub, w, first, last, next)
		}
		if got := w.Gone(sub); !got.Equal(end.Add(units[w])) {
			t.Fatalf("sub-window %d of a %v, which ends at %v, is gone at %v", sub, w, end, got)
		}
	})
}

func TestWhatSlides(t *testing.T) {
	t.Parallel()
	for w := range counter.Window(20) {
		if want := w >= counter.SlidingSecond && w <= counter.SlidingHour; w.Slides() != want {
			t.Errorf("%v slides: %v", w, !want)
		}
		if n := w.Sub(time.Unix(1<<33, 0)); !w.Slides() && n != 0 {
			t.Errorf("%v has sub-window %d", w, n)
		}
	}
}

func TestWindowString(t *testing.T) {
	t.Parallel()
	got := make([]string, 11)
	for w := range got {
		got[w] = counter.Window(w).String()
	}
	want := []string{"Window(0)", "Second", "Minute", "Hour", "Day", "Month", "InUse", "SlidingSecond", "SlidingMinute", "SlidingHour", "Window(10)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestNamesAreHexadecimal(t *testing.T) {
	t.Parallel()
	if got, want := (counter.Key{0xab, 15: 1}).String(), "ab000000000000000000000000000001"; got != want {
		t.Errorf("key is %s, want %s", got, want)
	}
	if got, want := (counter.LeaseID{0xab, 7: 1}).String(), "ab00000000000001"; got != want {
		t.Errorf("lease is %s, want %s", got, want)
	}
}

func TestFits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		max, used, hits int64
		want            bool
	}{
		"room":                   {max: 10, used: 4, hits: 6, want: true},
		"one too many":           {max: 10, used: 4, hits: 7},
		"nothing, in a full one": {max: 10, used: 40, hits: 0, want: true},
		"below nothing":          {max: 10, used: 40, hits: math.MinInt64, want: true},
		"one, beyond the limit":  {max: 10, used: 40, hits: 1},
		"max of 0":               {max: 0, hits: 1},
		"max below 0":            {max: math.MinInt64, used: 1, hits: 1},
		"the largest numbers":    {max: math.MaxInt64, used: math.MaxInt64, hits: math.MaxInt64},
		"as many as can be":      {max: math.MaxInt64, used: 1, hits: counter.MaxCount - 1, want: true},
		"more than can be":       {max: math.MaxInt64, used: 1, hits: counter.MaxCount},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (counter.Limit{Max: test.max}).Fits(test.used, test.hits); got != test.want {
				t.Errorf("%d on top of %d within %d fits: %v", test.hits, test.used, test.max, got)
			}
		})
	}
}
