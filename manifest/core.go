package manifest

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// checkFields finds fields that a core kind does not have. Those that it has are given.
func (k *kind) checkFields(fields map[string]any, known ...string) []problem {
	var problems []problem
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			problems = append(problems, k.unknownField(name, known))
		}
	}
	return problems
}

// readNamespace keeps the labels.
func readNamespace(k *kind, fields map[string]any, name policy.Name) (any, []problem) {
	problems := k.checkFields(fields, "apiVersion", "kind", "metadata", "spec", "status")
	meta, more := k.readMeta(fields, name)
	return policy.Namespace{Name: name.Name, Labels: meta.Labels}, append(problems, more...)
}

// A secretObject is a Secret as it is kept: what may be known of it, and what only those get who must have it.
type secretObject struct {
	known   policy.Secret
	content SecretContent
}

// A SecretContent is the values of a Secret. However it is printed, it shows none of them.
type SecretContent struct {
	// value is a function, because Format is not asked where the content stands in a field that is not exported.
	value func(key string) []byte
}

// Value is the value under a key; nil if there is none.
func (c SecretContent) Value(key string) []byte {
	if c.value == nil {
		return nil
	}
	return c.value(key)
}

// Format keeps the values out of every log line and error, whatever the verb.
func (c SecretContent) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "content of a Secret") }

// readSecret looks at the content only if the label allows it. The content of stringData goes before that of data, as an API
// server has it.
func readSecret(k *kind, fields map[string]any, name policy.Name) (any, []problem) {
	problems := k.checkFields(fields, "apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData")
	meta, more := k.readMeta(fields, name)
	problems = append(problems, more...)
	if meta.Labels[v1alpha1.SecretLabel] != "true" || len(problems) > 0 {
		return &secretObject{}, problems
	}
	values := map[string][]byte{}
	for _, part := range []string{"data", "stringData"} {
		if problems = append(problems, k.checkTexts(part, fields[part])...); len(problems) > 0 {
			return &secretObject{}, problems
		}
		texts, _ := fields[part].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(texts)) {
			content, wrong := secretContent(part, text(texts[key]))
			if len(validation.IsConfigMapKey(key)) > 0 {
				wrong = "The name of a value may consist of letters, digits, '-', '_' and '.', and have at most 253 of them."
			}
			if wrong != "" {
				p := invalid(part, wrong)
				p.where = part + "[" + key + "]"
				problems = append(problems, p)
			}
			values[key] = content
		}
	}
	return &secretObject{policy.ReadSecret(text(fields["type"]), values), SecretContent{func(key string) []byte { return values[key] }}}, problems
}

// secretContent decodes one value. What is wrong with it is said without quoting it.
func secretContent(part, value string) (content []byte, wrong string) {
	if part == "stringData" {
		return []byte(value), ""
	}
	content, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return nil, "The value is not base64; encode it, or write it as it is under stringData."
	}
	return content, ""
}
