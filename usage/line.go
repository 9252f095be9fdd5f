package usage

import "container/heap"

// nowhere is the place of an entry that is not in a line.
const nowhere = -1

// A line is entries of which the first by a certain order is taken first.
type line struct {
	entries []*entry
	before  func(a, b *entry) bool
	place   func(*entry) *int // of an entry in this line
}

// put adds the entry, or moves it to where it belongs now.
func (l *line) put(e *entry) {
	if at := *l.place(e); at != nowhere {
		heap.Fix(l, at)
		return
	}
	heap.Push(l, e)
}

// remove takes the entry out, if it is there.
func (l *line) remove(e *entry) {
	if at := *l.place(e); at != nowhere {
		heap.Remove(l, at)
	}
}

// first is the first entry; nil if there is none.
func (l *line) first() *entry {
	if len(l.entries) == 0 {
		return nil
	}
	return l.entries[0]
}

// Len, Less, Swap, Push and Pop are for heap.
func (l *line) Len() int           { return len(l.entries) }
func (l *line) Less(i, j int) bool { return l.before(l.entries[i], l.entries[j]) }

func (l *line) Swap(i, j int) {
	l.entries[i], l.entries[j] = l.entries[j], l.entries[i]
	*l.place(l.entries[i]), *l.place(l.entries[j]) = i, j
}

// Push is for heap.
func (l *line) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // The line holds nothing else.
	*l.place(e) = len(l.entries)
	l.entries = append(l.entries, e)
}

// Pop is for heap.
func (l *line) Pop() any {
	last := len(l.entries) - 1
	e := l.entries[last]
	l.entries[last], l.entries = nil, l.entries[:last]
	*l.place(e) = nowhere
	return e
}
