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

func TestWindowString(t *testing.T) {
	t.Parallel()
	got := make([]string, 8)
	for w := range got {
		got[w] = counter.Window(w).String()
	}
	want := []string{"Window(0)", "Second", "Minute", "Hour", "Day", "Month", "InUse", "Window(7)"}
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
		"room":                     {max: 10, used: 4, hits: 6, want: true},
		"one too many":             {max: 10, used: 4, hits: 7},
		"nothing, in a full one":   {max: 10, used: 40, hits: 0, want: true},
		"below nothing":            {max: 10, used: 40, hits: math.MinInt64, want: true},
		"one, beyond the limit":    {max: 10, used: 40, hits: 1},
		"max of 0":                 {max: 0, hits: 1},
		"max below 0":              {max: math.MinInt64, used: 1, hits: 1},
		"the largest numbers":      {max: math.MaxInt64, used: math.MaxInt64, hits: math.MaxInt64},
		"the largest numbers, fit": {max: math.MaxInt64, used: 0, hits: math.MaxInt64, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (counter.Limit{Max: test.max}).Fits(test.used, test.hits); got != test.want {
				t.Errorf("%d on top of %d within %d fits: %v", test.hits, test.used, test.max, got)
			}
		})
	}
}
