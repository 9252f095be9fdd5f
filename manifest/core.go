package manifest

import (
	"encoding/base64"
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

// readSecret looks at the content only if the label allows it, and keeps no more than the digests. The content of
// stringData goes before that of data, as an API server has it.
func readSecret(k *kind, fields map[string]any, name policy.Name) (any, []problem) {
	problems := k.checkFields(fields, "apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData")
	meta, more := k.readMeta(fields, name)
	problems = append(problems, more...)
	secret := policy.Secret{Labelled: meta.Labels[v1alpha1.SecretLabel] == "true"}
	if !secret.Labelled || len(problems) > 0 {
		return secret, problems
	}
	secret.Keys = map[string]policy.Key{}
	for _, part := range []string{"data", "stringData"} {
		if problems = append(problems, k.checkTexts(part, fields[part])...); len(problems) > 0 {
			return secret, problems
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
			secret.Keys[key] = policy.ReadKey(content)
		}
	}
	return secret, problems
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
