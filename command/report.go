package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A report is what compile prints. Its JSON form is relied upon by scripts.
type report struct {
	Objects []objectReport `json:"objects"`
	Files   []fileReport   `json:"files,omitempty"` // what is wrong with files whose objects nobody knows

	ignored int
}

type objectReport struct {
	Kind      string         `json:"kind"`
	Namespace string         `json:"namespace"` // empty for kinds of cluster scope
	Name      string         `json:"name"`
	Accepted  bool           `json:"accepted"`
	Reasons   []reasonReport `json:"reasons"` // empty if accepted
	Notes     []noteReport   `json:"notes,omitempty"`
}

// A noteReport is about a field of an accepted object that has no effect.
type noteReport struct {
	Field   string `json:"field"`
	Message string `json:"message"`

	source manifest.Source
}

type reasonReport struct {
	Reason  string `json:"reason"`
	Field   string `json:"field"`
	Message string `json:"message"`

	source manifest.Source
}

type fileReport struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0: the whole file
	Message string `json:"message"`
}

// newReport joins what is wrong with single manifests and what they come to together.
func newReport(result manifest.Result, verdicts []policy.Verdict) *report {
	r := &report{Objects: []objectReport{}, ignored: len(result.Ignored)}
	reasons := map[policy.Object][]reasonReport{}
	for _, v := range verdicts {
		reasons[v.Object] = []reasonReport{}
		for _, p := range v.Problems {
			reasons[v.Object] = append(reasons[v.Object], reasonReport{p.Reason, p.Field, p.Message, result.Sources[v.Object]})
		}
	}
	for _, p := range result.Problems {
		if p.Object.Kind == "" {
			r.Files = append(r.Files, fileReport{p.File, p.Line, strings.TrimPrefix(p.Field+": "+p.Message, ": ")})
			continue
		}
		reasons[p.Object] = append(reasons[p.Object], reasonReport{p.Reason, p.Field, p.Message, p.Source})
	}
	notes := map[policy.Object][]noteReport{}
	for _, n := range policy.Idle(&result.Input, verdicts) {
		notes[n.Object] = append(notes[n.Object], noteReport{n.Field, n.Message, result.Sources[n.Object]})
	}
	for o, why := range reasons {
		r.Objects = append(r.Objects, objectReport{o.Kind, o.Namespace, o.Name.Name, len(why) == 0, why, notes[o]})
	}
	slices.SortFunc(r.Objects, func(a, b objectReport) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return r
}

func (o *objectReport) fullName() string {
	return policy.Name{Namespace: o.Namespace, Name: o.Name}.String()
}

func (r *report) rejected() int {
	n := 0
	for _, o := range r.Objects {
		if !o.Accepted {
			n++
		}
	}
	return n
}

// err says in one sentence why compile fails, if it does.
func (r *report) err(directory string) error {
	var parts []string
	if n := r.rejected(); n > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s not accepted", n, plural(len(r.Objects), "object is", "objects are")))
	}
	if n := len(r.Files); n > 0 {
		parts = append(parts, plural(n, "file or document", "files or documents")+" cannot be read")
	}
	if len(parts) > 0 {
		return errors.New(strings.Join(parts, " and "))
	}
	if len(r.Objects) == 0 {
		return fmt.Errorf("there is no object of tierkeeper.io in %s", directory)
	}
	return nil
}

// print writes a table for people.
func (r *report) print(w io.Writer) {
	p := newPaint(w)
	r.printFiles(w, p)
	if len(r.Objects) == 0 {
		return
	}
	if len(r.Files) > 0 {
		fmt.Fprintln(w)
	}
	r.printObjects(w, p)
	summary := fmt.Sprintf("%s: %d accepted, %d not.", plural(len(r.Objects), "object", "objects"), len(r.Objects)-r.rejected(), r.rejected())
	if r.ignored > 0 {
		summary += fmt.Sprintf(" %s left alone.", plural(r.ignored, "document of another kind was", "documents of other kinds were"))
	}
	fmt.Fprintln(w, "\n"+summary)
}

func (r *report) printObjects(w io.Writer, p paint) {
	rows := [][]string{{"KIND", "NAME", "STATUS"}}
	for _, o := range r.Objects {
		status := p.green("accepted")
		if !o.Accepted {
			status = p.red("NOT ACCEPTED")
		}
		rows = append(rows, []string{o.Kind, o.fullName(), status})
	}
	lines := columns(rows)
	fmt.Fprintln(w, p.bold(lines[0]))
	for i, o := range r.Objects {
		fmt.Fprintln(w, lines[i+1])
		for _, why := range o.Reasons {
			fmt.Fprintf(w, "    %s: %s: %s\n", why.source, why.Reason, why.words())
		}
		for _, n := range o.Notes {
			fmt.Fprintf(w, "    %s: note: %s: %s\n", n.source, n.Field, n.Message)
		}
	}
}

// printRejected writes what is wrong, and nothing if all is well.
func (r *report) printRejected(w io.Writer) {
	for _, o := range r.Objects {
		for _, why := range o.Reasons {
			fmt.Fprintf(w, "%s: %s %s: %s\n", why.source, o.Kind, o.fullName(), why.words())
		}
	}
	r.printFiles(w, newPaint(w))
}

func (r *report) printFiles(w io.Writer, p paint) {
	for _, f := range r.Files {
		fmt.Fprintf(w, "%s %s\n", p.red(manifest.Source{File: f.File, Line: f.Line}.String()+":"), f.Message)
	}
}

// words puts field and message into one line.
func (r *reasonReport) words() string {
	return strings.TrimPrefix(r.Field+": "+r.Message, ": ")
}
