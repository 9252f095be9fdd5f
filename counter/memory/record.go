package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// layout is the version of the file and of each value in it.
const layout = 1

// latest is the end of the year 9999: beyond it the calendar of package time does not reach everywhere.
const latest = 253402300800

var errNewer = errors.New("its layout is not known here")

// kept reports whether counters of window w are written to the file. A second is over before the process is back, and
// a slot belongs to a stream, which does not outlive the process.
func kept(w counter.Window) bool { return w >= counter.Minute && w <= counter.Month }

// A record is what the file says of one counter; the key stands beside it. The fields follow one another in the file as
// they do here, big endian.
type record struct {
	Layout byte
	Window counter.Window
	End    int64 // of the window, in seconds since 1970
	Used   int64
}

func (r record) encode() []byte {
	b, _ := binary.Append(nil, binary.BigEndian, r) // fails only for types without a fixed size
	return b
}

func decode(b []byte) (record, error) {
	var r record
	if len(b) > 0 && b[0] > layout {
		return record{}, errNewer
	}
	if n, err := binary.Decode(b, binary.BigEndian, &r); err != nil || n != len(b) || r.Layout != layout {
		return record{}, fmt.Errorf("a value of %d bytes is not a counter", len(b))
	}
	if !kept(r.Window) || r.Used < 0 || r.End < 1 || r.End > latest {
		return record{}, fmt.Errorf("a counter cannot have window %v, end %d and count %d", r.Window, r.End, r.Used)
	}
	if _, end := r.span(); end.Unix() != r.End {
		return record{}, fmt.Errorf("no %v ends at %d", r.Window, r.End)
	}
	return r, nil
}

func (r record) span() (start, end time.Time) { return r.Window.Bounds(time.Unix(r.End-1, 0)) }

// runs reports whether now lies in the window.
func (r record) runs(now time.Time) bool {
	start, end := r.span()
	return !now.Before(start) && now.Before(end)
}
