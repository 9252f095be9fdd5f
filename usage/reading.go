package usage

import (
	"context"
	"fmt"
	"time"

	"github.com/tierkeeper/tierkeeper/policy"
)

// A reading is of what all objects say. It goes on beside the passes, for as long as the API server takes.
type reading struct {
	began time.Time
	heard chan heard // closed when all was read
	err   error      // set before
}

// heard is what an object says, or said since the reading began.
type heard struct {
	object policy.Object
	says   Status
}

// read begins a reading, which ends early with ctx.
func (r *Reporter) read(ctx context.Context, now time.Time) {
	reading := &reading{began: now, heard: make(chan heard)}
	go func() {
		defer close(reading.heard)
		reading.err = r.writer.Last(ctx, func(o policy.Object, s Status) {
			select {
			case reading.heard <- heard{o, s}:
			case <-ctx.Done():
			}
		})
	}()
	r.reading, r.last = reading, now
	r.reads++
}

// readAnew begins a reading when the last one began long enough ago.
func (r *Reporter) readAnew(ctx context.Context, now time.Time) {
	if r.reading == nil && now.Sub(r.last) >= reread {
		r.read(ctx, now)
	}
}

// hearing is what the reading that goes on tells next; nil: none does.
func (r *Reporter) hearing() <-chan heard {
	if r.reading == nil {
		return nil
	}
	return r.reading.heard
}

// hear takes notice of what an object says. Where that is not what was heard or written last, it is looked at again, and so comes
// to say what is used though that has not changed.
func (r *Reporter) hear(h heard) {
	e, began := r.entries[h.object], r.reading.began
	switch {
	case e == nil:
		e = newEntry(h.object, h.says, began)
		r.entries[h.object] = e
		r.lookSoon(e, began)
	case e.tried.Before(began) && differs(e.says, h.says):
		r.correct(e, h.says, began)
	}
	e.read = r.reads
}

// heardAll ends the reading: objects that were not in it say nothing.
func (r *Reporter) heardAll() error {
	ended := r.reading
	r.reading = nil
	if ended.err != nil {
		return fmt.Errorf("reading what the status of objects says: %w", ended.err)
	}
	for _, e := range r.entries {
		if e.read != r.reads && e.says.Usage != nil && e.tried.Before(ended.began) {
			r.correct(e, Status{}, ended.began)
		}
	}
	return nil
}

// correct notes that the object says s, which is not what it was thought to say. What people were told they still know.
func (r *Reporter) correct(e *entry, s Status, now time.Time) {
	e.says, e.missed = s, false
	r.lookSoon(e, now)
}

func (r *Reporter) lookSoon(e *entry, now time.Time) {
	e.next = now
	r.due.put(e)
}
