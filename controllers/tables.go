package controllers

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/tierkeeper/tierkeeper/policy"
)

// progress says how far the objects of each kind have been seen, by their resource versions. The API server hands them out in
// the order in which it writes, and all objects of a kind are compared to those of the same kind only.
type progress map[string]uint64

// reaches reports whether an object of the kind has been seen as it was at the resource version.
func (p progress) reaches(kind string, version uint64) bool { return p[kind] >= version }

// earlier is as far as both have come.
func (p progress) earlier(q progress) progress {
	out := progress{}
	for kind, version := range p {
		out[kind] = min(version, q[kind])
	}
	return out
}

// A compilation is what was made of one view of the objects.
type compilation struct {
	mark     uint64
	table    *policy.Table
	verdicts []policy.Verdict // sorted by object, as Compile returns them
	notes    map[policy.Object][]policy.Note
	seen     progress
}

// remembers is the table, and an empty one before the first compilation.
func (c *compilation) remembers() *policy.Table {
	if c == nil {
		return &policy.Table{}
	}
	return c.table
}

// verdict finds what was said of an object.
func (c *compilation) verdict(o policy.Object) (policy.Verdict, bool) {
	if c == nil {
		return policy.Verdict{}, false
	}
	i, found := slices.BinarySearchFunc(c.verdicts, o, func(v policy.Verdict, o policy.Object) int { return compareObjects(v.Object, o) })
	if !found {
		return policy.Verdict{}, false
	}
	return c.verdicts[i], true
}

func compareObjects(a, b policy.Object) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name.Name, b.Name.Name))
}

// keptMarks is how many compilations are remembered for clients that have not acknowledged them yet. One that is further
// behind has acknowledged nothing.
const keptMarks = 1024

// tables has the newest compilation, and knows how far each of the last ones had seen. It is safe for concurrent use.
type tables struct {
	clock clock.PassiveClock

	mu    sync.Mutex
	now   *compilation
	marks []*compilation // the last ones, without their content, by mark
	seen  progress       // by events, also those that change no table

	// How many events that matter were seen so far, before the newest compilation, and before the one that is being made.
	events, compiled, compiling uint64
	// Since when the compilation that is being made is waited for, and the one after it; zero: nobody waits.
	waits, waitsOn time.Time
}

func newTables(c clock.PassiveClock) *tables { return &tables{clock: c, seen: progress{}} }

// note takes in an event. What matters is compiled next.
func (t *tables) note(kind string, version uint64, matters bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if matters {
		t.events++
		if t.now != nil || !t.waits.IsZero() { // How long the caches take to fill is up to the API server.
			t.waitsOn = cmp.Or(t.waitsOn, t.clock.Now())
		}
	}
	t.seen[kind] = max(t.seen[kind], version)
}

// next is a resource version that no object of the kind had so far, and that the next one to be written reaches.
func (t *tables) next(kind string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[kind] + 1
}

// begin returns how far the objects have been seen that are about to be gathered: a view has whatever was noted.
func (t *tables) begin() progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.compiling = t.events
	t.waits, t.waitsOn = cmp.Or(t.waits, t.waitsOn, t.clock.Now()), time.Time{}
	return t.seen.earlier(t.seen)
}

func (t *tables) set(c *compilation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now, t.compiled, t.waits = c, t.compiling, time.Time{}
	t.marks = append(t.marks, &compilation{mark: c.mark, seen: c.seen})
	if len(t.marks) > keptMarks {
		t.marks = slices.Delete(t.marks, 0, len(t.marks)-keptMarks)
	}
}

// waiting is since when something waits that should have been compiled; zero: nothing does.
func (t *tables) waiting() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return cmp.Or(t.waits, t.waitsOn)
}

func (t *tables) newest() *compilation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// progressAt is how far the objects had been seen at the compilation of the mark. Whoever has the newest one has everything
// that was seen since and changes nothing.
func (t *tables) progressAt(mark uint64) progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil && mark >= t.now.mark && t.compiled == t.events {
		return t.seen.earlier(t.seen)
	}
	i, found := slices.BinarySearchFunc(t.marks, mark, func(c *compilation, mark uint64) int { return cmp.Compare(c.mark, mark) })
	if !found {
		return progress{}
	}
	return t.marks[i].seen
}
