package policy

import (
	"iter"
	"slices"
	"strings"
)

// MaxModelLength is the longest model name, in bytes, that an object can name. A request for a longer one is refused.
const MaxModelLength = 253

// A matcher finds what is said about a model: by its exact name, or by the beginning of names, written with a trailing
// "*". The zero matcher is empty. A lookup costs one map access for each distinct length of pattern, whatever the number
// of patterns.
type matcher[T any] struct {
	exact    map[string]T
	prefixes map[string]pattern[T] // by what stands before the "*"
	lengths  []int                 // of prefixes, longest first
}

// pattern keeps the name as it was added, so that a lookup need not make it anew.
type pattern[T any] struct {
	name string
	v    T
}

// add says v about the models that name matches, and reports whether nothing was said about that name before.
func (m *matcher[T]) add(name string, v T) bool {
	prefix, isPattern := strings.CutSuffix(name, "*")
	if _, taken := m.said(name); taken {
		return false
	}
	switch {
	case !isPattern && m.exact == nil:
		m.exact = map[string]T{}
	case isPattern && m.prefixes == nil:
		m.prefixes = map[string]pattern[T]{}
	}
	if isPattern {
		m.prefixes[prefix] = pattern[T]{name, v}
	} else {
		m.exact[name] = v
	}
	if isPattern && !slices.Contains(m.lengths, len(prefix)) {
		m.lengths = append(m.lengths, len(prefix))
		slices.SortFunc(m.lengths, func(a, b int) int { return b - a })
	}
	return true
}

func (m *matcher[T]) len() int { return len(m.exact) + len(m.prefixes) }

// each yields all names and patterns, in no order.
func (m *matcher[T]) each() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range m.exact {
			if !yield(name) {
				return
			}
		}
		for _, p := range m.prefixes {
			if !yield(p.name) {
				return
			}
		}
	}
}

// names lists all names and patterns, sorted.
func (m *matcher[T]) names() []string {
	return slices.Sorted(m.each())
}

// find yields the best match: the exact name, else the longest pattern. The name is as it was added.
func (m *matcher[T]) find(model string) (name string, v T, ok bool) {
	for name, v := range m.all(model) {
		return name, v, true
	}
	return "", v, false
}

// all yields everything that matches, the exact name first, then patterns from the longest to the shortest.
func (m *matcher[T]) all(model string) func(yield func(string, T) bool) {
	return func(yield func(string, T) bool) {
		if v, ok := m.exact[model]; ok && !yield(model, v) {
			return
		}
		for _, n := range m.lengths {
			if n > len(model) {
				continue
			}
			if p, ok := m.prefixes[model[:n]]; ok && !yield(p.name, p.v) {
				return
			}
		}
	}
}

// narrower returns the one of two matches of the same model that says more: an exact name over a pattern, a longer
// pattern over a shorter one. An empty name matches nothing.
func narrower(a, b string) string {
	switch aPattern, bPattern := strings.HasSuffix(a, "*"), strings.HasSuffix(b, "*"); {
	case a == "":
		return b
	case b == "":
		return a
	case aPattern != bPattern:
		if aPattern {
			return b
		}
		return a
	case len(b) > len(a):
		return b
	}
	return a
}

// said finds what was added under exactly that name or pattern.
func (m *matcher[T]) said(name string) (T, bool) {
	if prefix, isPattern := strings.CutSuffix(name, "*"); isPattern {
		p, ok := m.prefixes[prefix]
		return p.v, ok
	}
	v, ok := m.exact[name]
	return v, ok
}
