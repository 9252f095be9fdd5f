package manifest

import (
	"cmp"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A document is what one document says. It is immutable. Lines count from its own first one.
type document struct {
	objects  []*object
	problems []problem // of what does not tell which object it is
	ignored  []ignored
}

// An object is one object of a kind that counts. Its value is nil if an API server would refuse it.
type object struct {
	id       policy.Object
	line     int
	value    any // *v1alpha1.…, *secretObject or policy.Namespace
	problems []problem
}

type problem struct {
	line    int
	reason  string
	field   string
	where   string // path by which the line is found, if that is not field
	message string
}

func (p problem) at(s Source, o policy.Object) Problem {
	return Problem{Source: s, Object: o, Reason: p.reason, Field: p.field, Message: p.message}
}

type ignored struct {
	line       int
	apiVersion string
	kind       string
	name       string
}

func unreadable(line int, message string) *document {
	return &document{problems: []problem{{line: line, reason: ReasonUnreadable, message: message}}}
}

// parse reads one document. It never fails: what is wrong is in the document.
func parse(c chunk) *document {
	content, failure := decode(c)
	if failure != nil {
		return &document{problems: []problem{*failure}}
	}
	d := &document{}
	d.read(content.value, content.node, content.doubled)
	return d
}

// read takes in one value, which may be a list of objects. Doubled says that a key stands twice somewhere.
func (d *document) read(value any, node *yaml.Node, doubled bool) {
	fields, ok := value.(map[string]any)
	if !ok {
		if value != nil {
			d.ignored = append(d.ignored, ignored{line: lineOf(node)})
		}
		return
	}
	apiVersion, kind := text(fields["apiVersion"]), text(fields["kind"])
	if items, isList := listItems(kind, fields); isList {
		d.list(apiVersion, kind, items, node, doubled)
		return
	}
	group, _, _ := strings.Cut(apiVersion, "/")
	known, isKnown := kinds()[kind]
	switch {
	case group == v1alpha1.GroupVersion.Group:
		if !isKnown || apiVersion != known.apiVersion {
			d.refuse(node, "kind", noSuchKind(apiVersion, kind))
			return
		}
		d.object(known, fields, node, doubled)
	case isKnown && apiVersion == known.apiVersion:
		d.object(known, fields, node, doubled)
	case isKnown && !strings.Contains(apiVersion, "/"):
		d.refuse(node, "apiVersion", fmt.Sprintf("A %s has apiVersion: %s; write that.", kind, known.apiVersion))
	case apiVersion == coreVersion && similarKind(kind) != "":
		d.refuse(node, "kind", fmt.Sprintf("Kinds tell small letters from capitals; write %s.", similarKind(kind)))
	default:
		d.ignored = append(d.ignored, ignored{lineOf(node), apiVersion, kind, text(lookup(fields, "metadata", "name"))})
	}
}

// object reads an object of a kind that counts.
func (d *document) object(k *kind, fields map[string]any, node *yaml.Node, doubled bool) {
	name := text(lookup(fields, "metadata", "name"))
	if name == "" {
		d.refuse(node, "metadata.name", fmt.Sprintf("This %s has no name; give it metadata.name, a string.", k.name))
		return
	}
	namespace := lookup(fields, "metadata", "namespace")
	if _, isText := namespace.(string); namespace != nil && !isText {
		d.refuse(node, "metadata.namespace", "The value must be a string; put it in quotes.")
		return
	}
	o := &object{id: policy.Object{Kind: k.name, Name: policy.Name{Name: name}}, line: lineOf(node)}
	if k.namespaced {
		o.id.Namespace = cmp.Or(text(namespace), DefaultNamespace)
	}
	o.problems = duplicates(node, k.secret)
	if doubled && len(o.problems) == 0 {
		o.problems = []problem{invalid("", "A key stands twice in one place; remove one of them.")}
	}
	value, problems := k.read(k, fields, o.id.Name)
	o.problems = first(append(o.problems, problems...))
	for i := range o.problems {
		if p := &o.problems[i]; p.line == 0 {
			p.line = lineOfField(node, cmp.Or(p.where, p.field))
		}
	}
	if len(o.problems) == 0 {
		o.value = value
	}
	d.objects = append(d.objects, o)
}

// maxProblems is how many problems of one object, or of one place in it, are told: finding the line of each takes time, and
// nobody reads a thousand.
const maxProblems = 20

// first returns no more than the first maxProblems.
func first[S ~[]E, E any](all S) S { return all[:min(len(all), maxProblems)] }

// refuse notes a problem of something that counts but does not tell which object it is.
func (d *document) refuse(node *yaml.Node, field, message string) {
	d.problems = append(d.problems, problem{line: lineOfField(node, field), reason: ReasonUnreadable, field: field, message: message})
}

func (d *document) list(apiVersion, kind string, items []any, node *yaml.Node, doubled bool) {
	list := child(node, "items")
	for i, item := range items {
		// A list of one kind need not repeat it.
		if fields, ok := item.(map[string]any); ok && kind != "List" && fields["kind"] == nil && fields["apiVersion"] == nil {
			fields["apiVersion"], fields["kind"] = apiVersion, strings.TrimSuffix(kind, "List")
		}
		itemNode := element(list, i)
		d.read(item, itemNode, doubled && itemNode == nil)
	}
	for _, p := range duplicatesIn(node) {
		d.problems = append(d.problems, problem{line: p.line, reason: ReasonUnreadable, field: p.field, message: p.message})
	}
}

// listItems returns the items if this is a List, or a list of one kind.
func listItems(kind string, fields map[string]any) ([]any, bool) {
	if !strings.HasSuffix(kind, "List") {
		return nil, false
	}
	value, has := fields["items"]
	items, ok := value.([]any)
	return items, has && (ok || value == nil)
}

// invalid is a problem whose line is yet to be found by its field.
func invalid(field, message string) problem {
	return problem{reason: ReasonInvalid, field: field, message: message}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// lookup finds a value by its path; nil if there is none.
func lookup(fields map[string]any, path ...string) any {
	var v any = fields
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}
