package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// guarded reports whether a field is where people put API keys by mistake, so that neither values nor names of unknown
// fields may be quoted.
func guarded(path string) bool { return strings.HasPrefix(path, "spec.keys") }

func (k *kind) unknownField(path string, known []string) problem {
	p := invalid(path, "There is no such field.")
	if k.secret || guarded(path) {
		p.field, p.where = parentPath(path), path
		p.message = "There is a field that does not exist."
	}
	if len(known) > 0 {
		p.message += " The fields here are " + strings.Join(known, ", ") + "."
	}
	return p
}

// explainAll puts the API server's errors into words for people. Of a field that has the wrong type, that is all that
// needs to be said; where there is a choice of values, the choice says it better.
func (k *kind) explainAll(errs field.ErrorList) []problem {
	errs = first(errs)
	telling := map[string]field.ErrorType{}
	for _, e := range errs {
		if e.Type == field.ErrorTypeNotSupported || e.Type == field.ErrorTypeTypeInvalid && telling[e.Field] == "" {
			telling[e.Field] = e.Type
		}
	}
	var problems []problem
	for _, e := range errs {
		if isDigest(e) && slices.ContainsFunc(problems, func(p problem) bool { return p.field == e.Field }) {
			continue // One sentence says all that the schema has against it.
		}
		// What has no field repeats what another error says.
		if e.Field != "<nil>" && (telling[e.Field] == "" || e.Type == telling[e.Field]) {
			problems = append(problems, k.explain(e))
		}
	}
	return problems
}

func (k *kind) explain(e *field.Error) problem {
	return invalid(e.Field, k.sentence(e))
}

// isDigest reports whether an error is about the form of a digest, where people put the key itself.
func isDigest(e *field.Error) bool {
	return guarded(e.Field) && strings.HasSuffix(e.Field, ".digest") && e.Type != field.ErrorTypeTypeInvalid
}

func (k *kind) sentence(e *field.Error) string {
	if isDigest(e) {
		return `A digest is "sha256:" and 64 hexadecimal digits in small letters; "tierkeeper keygen" prints it. The key itself must not stand here.`
	}
	must := strings.TrimSuffix(strings.TrimPrefix(e.Detail, e.Field+" in body "), ".")
	switch e.Type {
	case field.ErrorTypeRequired:
		return "This field is required."
	case field.ErrorTypeTypeInvalid:
		return wrongType(must)
	case field.ErrorTypeNotSupported:
		return k.value(e) + " must be one of " + strings.NewReplacer("supported values: ", "", `"`, "").Replace(must) + "."
	case field.ErrorTypeDuplicate:
		return "An entry of this list has the same " + k.listKey(e) + "; remove one of them."
	case field.ErrorTypeTooLong:
		return "The value is too long: it " + must + "."
	case field.ErrorTypeTooMany:
		return "The list is too long: it " + must + "."
	default:
	}
	if count, found := strings.CutPrefix(must, "should have "); found {
		return "It must have " + counted.Replace(count+".")
	}
	if rest, found := strings.CutPrefix(must, "should "); found {
		return k.value(e) + " must " + counted.Replace(plainNumber(rest)+".")
	}
	if strings.HasPrefix(e.Field, "metadata.") {
		must, _, _ = strings.Cut(must, " (e.g. ")
		return strings.ToUpper(must[:1]) + must[1:] + "."
	}
	return must + "." // a rule's own words, which begin with the name of a field as often as not
}

// counted puts counts into better words.
var counted = strings.NewReplacer(
	" 1 items.", " 1 entry.", " items.", " entries.", " 1 properties.", " 1 field.", " properties.", " fields.",
	" 1 chars long.", " 1 character long.", " chars long.", " characters long.",
)

// value names the value that is wrong, unless it may be secret.
func (k *kind) value(e *field.Error) string {
	if k.secret || guarded(e.Field) {
		return "The value"
	}
	switch v := e.BadValue.(type) {
	case string:
		return "The value " + quote(v)
	case int64:
		return fmt.Sprintf("The value %d", v)
	case float64:
		return "The value " + strconv.FormatFloat(v, 'g', -1, 64)
	}
	return "The value"
}

// listKey says which key two entries of a list have in common.
func (k *kind) listKey(e *field.Error) string {
	if k.secret || guarded(e.Field) {
		return "key"
	}
	switch v := e.BadValue.(type) {
	case string:
		return "value " + quote(v)
	case map[string]any:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			text, err := json.Marshal(v[name])
			if err != nil {
				return "key"
			}
			parts = append(parts, name+" "+strings.Trim(string(text), `"`))
		}
		return strings.Join(parts, " and ")
	}
	return "key"
}

var typeError = regexp.MustCompile(`^must be of type (\S+): "(.*)"$`)

// wrongType says what a value must be. It names the type that it has, never the value.
func wrongType(must string) string {
	parts := typeError.FindStringSubmatch(must)
	if parts == nil {
		return "The value has the wrong type."
	}
	switch want, got := parts[1], parts[2]; want {
	case "date-time":
		return "The value must be a date and a time as in 2030-12-31T23:59:59Z."
	case "int32", "int64":
		return "The value must be a whole number."
	case "string":
		return "The value must be a string; put it in quotes."
	default:
		return fmt.Sprintf("The value must be of type %s, not %s.", want, got)
	}
}

var largeNumber = regexp.MustCompile(`[0-9.]+e\+[0-9]+`)

// plainNumber writes large bounds as people do.
func plainNumber(s string) string {
	return largeNumber.ReplaceAllStringFunc(s, func(n string) string {
		v, err := strconv.ParseFloat(n, 64)
		if err != nil || v != math.Trunc(v) {
			return n
		}
		return strconv.FormatFloat(v, 'f', 0, 64)
	})
}

// quote puts a value in quotes and cuts it where it gets long.
func quote(s string) string {
	const longest = 80
	if runes := []rune(s); len(runes) > longest {
		s = string(runes[:longest]) + "…"
	}
	return strconv.Quote(s)
}

// parentPath drops the last part of a path.
func parentPath(path string) string {
	parts := splitPath(path)
	if len(parts) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimSuffix(path, parts[len(parts)-1]), ".")
}

var pathPart = regexp.MustCompile(`\[[^\]]*\]|[^.\[]+`)

// splitPath cuts spec.keys[0].name into spec, keys, [0] and name.
func splitPath(path string) []string { return pathPart.FindAllString(path, -1) }
