// Package manifest decides what a directory of manifests says: which objects it holds, as an API server would take them,
// and what is wrong with the rest.
//
// Objects of tierkeeper.io are held against the schema and the rules of the CustomResourceDefinitions with the API
// server's own libraries. Unknown fields, and keys that stand twice, are errors. An object without a namespace is in
// "default"; a namespace on a kind that has none is ignored, as kubectl ignores it; what an API server sets itself
// (creationTimestamp, uid, status of a Namespace and the like) is dropped. Of Secrets without the label nothing is read, of
// Namespaces only the labels. Objects of other groups are counted and left alone.
//
// What is wrong costs as little as possible: an object that an API server would refuse keeps the version that it took
// last. No message quotes a Secret, or a document that might be one.
package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// MaxFileBytes is the size of the largest file that is read.
const MaxFileBytes = 16 << 20

// Kinds of objects that are read beside those of package policy.
const (
	KindSecret    = "Secret"
	KindNamespace = "Namespace"
)

// DefaultNamespace is where an object is that does not say where.
const DefaultNamespace = "default"

// A Source is where something stands.
type Source struct {
	File     string // path that begins with the directory as it was given to Load
	Document int    // in the file, from 1; 0 where the whole file is meant
	Line     int    // in the file, from 1; 0 where the whole file is meant
}

// String is "file:line", or "file" for a whole file.
func (s Source) String() string {
	if s.Line == 0 {
		return s.File
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// Reasons of Problems.
const (
	// ReasonInvalid: an API server would refuse the object.
	ReasonInvalid = "Invalid"
	// ReasonDuplicate: an earlier document holds the same object.
	ReasonDuplicate = "Duplicate"
	// ReasonUnreadable: a file or a document cannot be read, so nobody knows which objects it holds.
	ReasonUnreadable = "Unreadable"
)

// A Problem is one thing that is wrong with the manifests.
type Problem struct {
	Source
	Object  policy.Object // zero if the document does not tell
	Reason  string        // ReasonInvalid, ReasonDuplicate or ReasonUnreadable
	Field   string        // path as an API server writes it, as in spec.limits.rates[0].max; may be empty
	Message string        // what is wrong and what to do, in whole sentences; quotes nothing that may be secret
	Kept    bool          // the last good version of the object, or of the file's objects, holds on
}

// String is one line for people.
func (p Problem) String() string {
	var parts []string
	for _, part := range []string{p.Source.String(), objectName(p.Object), p.Field, p.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	line := strings.Join(parts, ": ")
	if p.Kept {
		return line + " Keeping the last good version."
	}
	return line
}

func objectName(o policy.Object) string {
	if o.Kind == "" {
		return ""
	}
	return o.String()
}

// An Ignored is an object of a kind that means nothing here. Its fields are as the document has them and may be empty.
type Ignored struct {
	Source
	APIVersion string
	Kind       string
	Name       string
}

// A Result is what a directory says.
type Result struct {
	Input    policy.Input                  // to be read only: later Results share its objects; LastAccepted is left to the caller
	Secrets  map[policy.Name]SecretContent // of Secrets that carry the label
	Sources  map[policy.Object]Source
	Problems []Problem // by file and line
	Ignored  []Ignored // by file and line
	Files    []string  // all files that were looked into, sorted
}

// A Loader loads a directory again and again and remembers the last good version of every object. The zero Loader is
// ready and remembers nothing. It is not safe for concurrent use.
type Loader struct {
	last  map[policy.Object]entry
	cache map[digest]*document
}

// An entry is an object in force and where it was last seen to be good.
type entry struct {
	Source
	value any // *v1alpha1.…, *secretObject or policy.Namespace
}

// Load reads the directory, or the single file, at path. Whatever is wrong is in the Result's Problems:
//
//   - An object that an API server would refuse keeps its last good version; if there is none it is left out.
//   - If a document cannot be read, or does not tell which object it is, the objects that its file held before and that
//     are now nowhere to be found hold on. So do those of a file that cannot be read or is larger than MaxFileBytes.
//   - If the directory is gone or holds no manifest, everything holds on.
//   - An object that two documents hold is that of the first, by path of file and place in it.
func (l *Loader) Load(path string) Result {
	m := &merge{last: l.last, now: map[policy.Object]entry{}, seen: map[policy.Object]Source{}}
	t := walk(path, nil)
	m.problems = t.problems
	cache := map[digest]*document{}
	for _, f := range t.files {
		m.file(f, l.read(f, cache))
	}
	m.keepLost(t)
	l.last, l.cache = m.now, cache
	return m.result(t.files)
}

// merge joins what the files say with what they said before.
type merge struct {
	last     map[policy.Object]entry
	now      map[policy.Object]entry
	seen     map[policy.Object]Source // where each object stands, good or not
	problems []Problem
	ignored  []Ignored
}

// file takes in the documents of one file.
func (m *merge) file(path string, docs []placed) {
	for _, d := range docs {
		at := func(line int) Source { return Source{path, d.number, d.line + line - 1} }
		for _, p := range d.problems {
			m.problems = append(m.problems, p.at(at(p.line), policy.Object{}))
		}
		for _, i := range d.ignored {
			m.ignored = append(m.ignored, Ignored{at(i.line), i.apiVersion, i.kind, i.name})
		}
		for _, o := range d.objects {
			m.object(o, at)
		}
	}
}

func (m *merge) object(o *object, at func(line int) Source) {
	here := at(o.line)
	if first, found := m.seen[o.id]; found {
		m.problems = append(m.problems, Problem{
			Source: here, Object: o.id, Reason: ReasonDuplicate,
			Message: fmt.Sprintf("This object stands in %s already, and that one counts; remove one of them.", first),
		})
		return
	}
	m.seen[o.id] = here
	before, known := m.last[o.id]
	problems := o.problems
	if len(problems) == 0 && known {
		problems = checkUpdate(o, before.value)
	}
	for _, p := range problems {
		problem := p.at(at(p.line), o.id)
		problem.Kept = known
		m.problems = append(m.problems, problem)
	}
	switch {
	case len(problems) == 0:
		m.now[o.id] = entry{here, o.value}
	case known:
		before.Source = here
		m.now[o.id] = before
	}
}

// keepLost keeps objects that are nowhere to be found while something that may hold them cannot be read.
func (m *merge) keepLost(t *tree) {
	unreadable := map[string]bool{}
	for _, p := range m.problems {
		if p.Reason == ReasonUnreadable {
			unreadable[p.File] = true
		}
	}
	kept := map[string]bool{}
	for id, e := range m.last {
		if _, found := m.seen[id]; found {
			continue
		}
		if at, lost := lostIn(unreadable, e.File, t.root); lost {
			kept[at] = true
			m.now[id] = e
		}
	}
	for i, p := range m.problems {
		if p.Reason == ReasonUnreadable {
			m.problems[i].Kept = kept[p.File]
		}
	}
}

// lostIn finds the file, or a directory above it, among what cannot be read.
func lostIn(unreadable map[string]bool, file, root string) (at string, lost bool) {
	for at = file; ; at = filepath.Dir(at) {
		if unreadable[at] {
			return at, true
		}
		if at == root || at == filepath.Dir(at) {
			return "", false
		}
	}
}

func (m *merge) result(files []string) Result {
	r := Result{Sources: map[policy.Object]Source{}, Problems: m.problems, Ignored: m.ignored, Files: files}
	for _, id := range slices.SortedFunc(maps.Keys(m.now), compareObjects) {
		e := m.now[id]
		r.Sources[id] = e.Source
		r.add(id, e.value)
	}
	slices.SortStableFunc(r.Problems, compareProblems)
	slices.SortStableFunc(r.Ignored, func(a, b Ignored) int { return compareSources(a.Source, b.Source) })
	return r
}

func (r *Result) add(id policy.Object, value any) {
	in := &r.Input
	switch v := value.(type) {
	case *v1alpha1.RateLimitTier:
		in.Tiers = append(in.Tiers, v)
	case *v1alpha1.ModelLimit:
		in.Models = append(in.Models, v)
	case *v1alpha1.ApiKeyQuota:
		in.Quotas = append(in.Quotas, v)
	case *v1alpha1.UserQuota:
		in.Users = append(in.Users, v)
	case *v1alpha1.QuotaGateway:
		in.Gateways = append(in.Gateways, v)
	case policy.Namespace:
		in.Namespaces = append(in.Namespaces, v)
	case *secretObject:
		if in.Secrets == nil {
			in.Secrets, r.Secrets = map[policy.Name]policy.Secret{}, map[policy.Name]SecretContent{}
		}
		in.Secrets[id.Name] = v.known
		if v.known.Labelled {
			r.Secrets[id.Name] = v.content
		}
	}
}

func compareObjects(a, b policy.Object) int {
	return cmp.Or(
		strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name.Name, b.Name.Name),
	)
}

// compareProblems goes beyond the line, because validators say things in no fixed order.
func compareProblems(a, b Problem) int {
	return cmp.Or(compareSources(a.Source, b.Source), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
}

func compareSources(a, b Source) int {
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
}
