package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

const coreVersion = "v1"

// A kind is a kind of objects that counts.
type kind struct {
	name       string
	apiVersion string
	namespaced bool
	secret     bool // nothing of it may be quoted
	validName  apivalidation.ValidateNameFunc
	schema     *schema // of kinds of tierkeeper.io
	read       func(k *kind, fields map[string]any, name policy.Name) (value any, problems []problem)
}

// kinds holds every kind that counts, by name. Making the rules ready takes a tenth of a second, so it is done when the
// first object is read.
var kinds = sync.OnceValue(func() map[string]*kind {
	all := map[string]*kind{
		KindSecret: {
			name: KindSecret, apiVersion: coreVersion, namespaced: true, secret: true,
			validName: apivalidation.NameIsDNSSubdomain, read: readSecret,
		},
		KindNamespace: {
			name: KindNamespace, apiVersion: coreVersion,
			validName: apivalidation.ValidateNamespaceName, read: readNamespace,
		},
	}
	for _, s := range schemas() {
		all[s.kind] = &kind{
			name: s.kind, apiVersion: v1alpha1.GroupVersion.String(), namespaced: s.namespaced, schema: s,
			validName: apivalidation.NameIsDNSSubdomain, read: readCustom,
		}
	}
	return all
})

func noSuchKind(apiVersion, name string) string {
	var names []string
	for _, k := range kinds() {
		if k.schema != nil {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	has := fmt.Sprintf("%s has the kinds %s.", v1alpha1.GroupVersion, strings.Join(names, ", "))
	if name == "" {
		return "This object has no kind. " + has
	}
	return fmt.Sprintf("There is no kind %s in %s. %s", quote(name), quote(apiVersion), has)
}

// similarKind finds the core kind that differs in capitals only.
func similarKind(name string) string {
	for _, k := range slices.Sorted(maps.Keys(kinds())) {
		if kinds()[k].apiVersion == coreVersion && strings.EqualFold(k, name) {
			return k
		}
	}
	return ""
}

// readMeta reads the metadata, of which it keeps what a user decides, and holds it against the API server's rules.
func (k *kind) readMeta(fields map[string]any, name policy.Name) (metav1.ObjectMeta, []problem) {
	problems := slices.Concat(
		k.checkTexts("metadata.labels", lookup(fields, "metadata", "labels")),
		k.checkTexts("metadata.annotations", lookup(fields, "metadata", "annotations")),
	)
	if len(problems) > 0 {
		return metav1.ObjectMeta{}, problems
	}
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(fields, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return metav1.ObjectMeta{}, []problem{invalid("metadata", "A value in this has the wrong type.")}
	}
	for _, path := range first(unknown) {
		problems = append(problems, k.unknownField(path, []string{"annotations", "labels", "name", "namespace"}))
	}
	kept := metav1.ObjectMeta{Name: name.Name, Namespace: name.Namespace, Labels: meta.Labels, Annotations: meta.Annotations}
	for _, e := range apivalidation.ValidateObjectMeta(&kept, k.namespaced, k.validName, field.NewPath("metadata")) {
		problems = append(problems, k.explain(e))
	}
	return kept, problems
}

// checkTexts finds values that are no strings where only strings can be: YAML makes numbers and booleans of what is not
// in quotes.
func (k *kind) checkTexts(path string, value any) []problem {
	texts, ok := value.(map[string]any)
	if !ok && value != nil {
		return []problem{invalid(path, "This must be an object: names, and a string for each.")}
	}
	var problems []problem
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if len(problems) == maxProblems {
			break
		}
		switch texts[name].(type) {
		case string, nil:
		default:
			p := invalid(path+"["+name+"]", "The value must be a string; put it in quotes.")
			if k.secret {
				p.field, p.where = path, p.field
			}
			problems = append(problems, p)
		}
	}
	return problems
}
