package memory

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// FuzzDecode shows that whatever a file holds is either a counter, and then only one value stands for it, or an error.
func FuzzDecode(f *testing.F) {
	_, end := counter.Month.Bounds(time.Date(2024, time.February, 14, 0, 0, 0, 0, time.UTC))
	valid := record{layout, counter.Month, end.Unix(), math.MaxInt64}.encode()
	f.Add([]byte(nil))
	f.Add(valid)
	f.Add(valid[:17])
	f.Add(append(valid, 0))
	f.Add(append([]byte{layout + 1}, valid[1:]...))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decode(value)
		if err != nil {
			return
		}
		if !bytes.Equal(r.encode(), value) {
			t.Errorf("%x is read as %+v, which is written as %x", value, r, r.encode())
		}
		if start, end := r.span(); !r.runs(start) || !r.runs(end.Add(-1)) || r.runs(end) || !kept(r.Window) || r.Used < 0 {
			t.Errorf("%x is read as %+v, from %v to %v", value, r, start, end)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := record{layout, counter.Minute, 60, 5}
	if r, err := decode(good.encode()); err != nil || r != good {
		t.Fatalf("%+v is read as %+v, %v", good, r, err)
	}
	for name, r := range map[string]record{
		"layout 0":                   {0, counter.Minute, 60, 5},
		"a newer layout":             {layout + 1, counter.Minute, 60, 5},
		"a window that is not kept":  {layout, counter.Second, 60, 5},
		"a slot":                     {layout, counter.InUse, 60, 5},
		"an end within a window":     {layout, counter.Minute, 61, 5},
		"an end before 1970":         {layout, counter.Minute, -60, 5},
		"an end in an unlikely year": {layout, counter.Minute, math.MaxInt64, 5},
		"a count below 0":            {layout, counter.Minute, 60, -1},
	} {
		if got, err := decode(r.encode()); err == nil {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}
