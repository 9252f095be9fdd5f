package feed

import (
	"slices"
	"sort"
)

// A resource is a part as it is sent.
type resource struct {
	content []byte
	version version
}

// A history is the resources as they are, and in which order they came to be so. A client that has read the log up to
// the head knows all of them.
type history struct {
	resources map[string]resource
	log       []change
	head      uint64 // position of the latest change; 0: there was none
	marks     []mark // by position
}

// A change says that the resource of a name was set, or deleted if it is there no more.
type change struct {
	position uint64
	name     string
}

// A mark is what the caller called a position, the latest of several.
type mark struct{ position, number uint64 }

func (h *history) set(name string, r resource) {
	if h.resources[name].version == r.version {
		return
	}
	h.resources[name] = r
	h.note(name)
}

func (h *history) delete(name string) {
	if _, found := h.resources[name]; found {
		delete(h.resources, name)
		h.note(name)
	}
}

func (h *history) note(name string) {
	h.head++
	h.log = append(h.log, change{h.head, name})
}

// markHead names the head.
func (h *history) markHead(number uint64) {
	if n := len(h.marks); n > 0 && h.marks[n-1].position == h.head {
		h.marks[n-1].number = number
		return
	}
	h.marks = append(h.marks, mark{h.head, number})
}

// markAt is the latest mark that was set no later than the position was reached.
func (h *history) markAt(position uint64) uint64 {
	i := sort.Search(len(h.marks), func(i int) bool { return h.marks[i].position > position })
	if i == 0 {
		return 0
	}
	return h.marks[i-1].number
}

// since is the log after a position.
func (h *history) since(position uint64) []change {
	return h.log[sort.Search(len(h.log), func(i int) bool { return h.log[i].position > position }):]
}

// difference lists what a client must be told that knows the names in these versions. What others refer to comes first.
func (h *history) difference(known map[string]version) []string {
	var names []string
	for name, r := range h.resources {
		if v, found := known[name]; !found || v != r.version {
			names = append(names, name)
		}
	}
	for name := range known {
		if _, found := h.resources[name]; !found {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, referredFirst)
	return names
}

// compact forgets the log that everybody was told, and the marks before the last that everybody has acknowledged. Of each name
// only the latest change is kept once that halves the log: a client that is far behind needs no other.
func (h *history) compact(told, acked uint64) {
	h.log = h.since(told)
	if i := sort.Search(len(h.marks), func(i int) bool { return h.marks[i].position > acked }); i > 1 {
		h.marks = h.marks[i-1:]
	}
	if len(h.log) <= 2*len(h.resources)+minLog {
		return
	}
	seen := make(map[string]bool, len(h.resources))
	kept := make([]change, 0, len(h.resources))
	for _, c := range slices.Backward(h.log) {
		if !seen[c.name] {
			seen[c.name] = true
			kept = append(kept, c)
		}
	}
	slices.Reverse(kept)
	h.log = kept
}

// minLog is how long a log may be in any case.
const minLog = 1000
