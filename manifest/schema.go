package manifest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	apivalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/config/crd"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A schema is what a CustomResourceDefinition says of the objects of its kind.
type schema struct {
	kind       string
	namespaced bool
	structure  *structural.Structural
	values     apivalidation.SchemaValidator
	rules      *cel.Validator // nil if there are none
}

// schemas reads the embedded definitions. They are part of the program and checked by its tests, so it panics if they are
// not in order.
func schemas() []*schema {
	names, err := fs.Glob(crd.Files, "*.yaml")
	if err != nil {
		panic(err)
	}
	var all []*schema
	for _, name := range names {
		s, err := readSchema(name)
		if err != nil {
			panic(fmt.Sprintf("embedded %s: %v", name, err))
		}
		all = append(all, s)
	}
	return all
}

func readSchema(file string) (*schema, error) {
	content, err := crd.Files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &definition); err != nil {
		return nil, err
	}
	version := definition.Spec.Versions[0] // there is only v1alpha1
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil, err
	}
	structure, err := structural.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	values, _, err := apivalidation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	return &schema{
		kind:       definition.Spec.Names.Kind,
		namespaced: definition.Spec.Scope == apiextensionsv1.NamespaceScoped,
		structure:  structure,
		values:     values,
		rules:      cel.NewValidator(structure, true, celconfig.PerCallLimit),
	}, nil
}

// readCustom holds an object of tierkeeper.io against its schema in the order of the API server: unknown fields, values,
// lists that are maps or sets, and rules unless the values are too wrong for them.
func readCustom(k *kind, fields map[string]any, name policy.Name) (any, []problem) {
	meta, problems := k.readMeta(fields, name)
	options := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range first(pruning.PruneWithOptions(fields, k.schema.structure, true, options)) {
		problems = append(problems, k.unknownField(path, k.schema.fieldsBeside(path)))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(fields, k.schema.structure)
	problems = append(problems, k.explainAll(k.schema.check(fields, nil))...)
	if len(problems) > 0 {
		return nil, problems
	}
	object, err := typed(k.name, fields, meta)
	if err != nil {
		return nil, []problem{invalid("spec", fmt.Sprintf("This cannot be read: %v.", err))}
	}
	return object, nil
}

// check returns what the schema has against an object; old is the one that it replaces, or nil.
func (s *schema) check(fields, old map[string]any) field.ErrorList {
	var before any // must not become an interface with a nil map in it
	if old != nil {
		before = old
	}
	errs := apivalidation.ValidateCustomResource(nil, fields, s.values)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structure, fields)...)
	if s.rules == nil || slices.ContainsFunc(errs, blocksRules) {
		return errs
	}
	// Rules are bounded by their cost, so there is nothing to cancel.
	//nolint:forbidigo // See above.
	broken, _ := s.rules.Validate(context.TODO(), nil, s.structure, fields, before, celconfig.RuntimeCELCostBudget)
	return append(errs, broken...)
}

// blocksRules reports whether the API server leaves the rules out because of the error.
func blocksRules(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	default:
		return false
	}
}

// typed makes the Go value of an object that its schema has nothing against.
func typed(kind string, fields map[string]any, meta metav1.ObjectMeta) (any, error) {
	delete(fields, "metadata")
	decode := func(into any, itsMeta *metav1.ObjectMeta) (any, error) {
		err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, into)
		*itsMeta = meta
		return into, err
	}
	switch kind {
	case policy.KindTier:
		o := new(v1alpha1.RateLimitTier)
		return decode(o, &o.ObjectMeta)
	case policy.KindModel:
		o := new(v1alpha1.ModelLimit)
		return decode(o, &o.ObjectMeta)
	case policy.KindQuota:
		o := new(v1alpha1.ApiKeyQuota)
		return decode(o, &o.ObjectMeta)
	case policy.KindUser:
		o := new(v1alpha1.UserQuota)
		return decode(o, &o.ObjectMeta)
	case policy.KindGateway:
		o := new(v1alpha1.QuotaGateway)
		return decode(o, &o.ObjectMeta)
	}
	return nil, fmt.Errorf("kind %s has no Go type", kind)
}

// checkUpdate returns what the schema has against an object taking the place of its last good version: some fields must
// not change.
func checkUpdate(o *object, before any) []problem {
	k := kinds()[o.id.Kind]
	if k.schema == nil || o.value == before {
		return nil
	}
	now, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o.value)
	if err != nil {
		return []problem{invalid("", fmt.Sprintf("This cannot be compared: %v.", err))}
	}
	old, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	if err != nil {
		return []problem{invalid("", fmt.Sprintf("This cannot be compared: %v.", err))}
	}
	problems := k.explainAll(k.schema.check(now, old))
	for i := range problems {
		problems[i].line = o.line
	}
	return problems
}

// fieldsBeside lists the fields that stand where the path ends.
func (s *schema) fieldsBeside(path string) []string {
	at := s.structure
	for _, part := range splitPath(parentPath(path)) {
		switch {
		case at == nil:
			return nil
		case part[0] == '[':
			at = at.Items
		default:
			next, found := at.Properties[part]
			if !found {
				return nil
			}
			at = &next
		}
	}
	if at == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(at.Properties))
}
