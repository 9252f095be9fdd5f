package manifest_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/config/crd"
	"github.com/tierkeeper/tierkeeper/manifest"
)

// found is what a test says, or sees, of one problem.
type found struct {
	Line    int
	Field   string
	Message string
}

// Each file of testdata/claims states one thing that manifests must keep to: by objects called good, and by others with a
// comment "# want FIELD | MESSAGE" in each line that a problem must point at.
func TestClaims(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/claims/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding claims: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			result := new(manifest.Loader).Load(file)
			var got []found
			for _, p := range result.Problems {
				if p.Reason != manifest.ReasonInvalid || p.Object.Kind == "" {
					t.Errorf("want an invalid object, got %s: %s", p.Reason, p)
				}
				got = append(got, found{p.Line, p.Field, p.Message})
			}
			if diff := cmp.Diff(wanted(t, file), sorted(got)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if len(result.Sources) != 1 {
				t.Errorf("want the good object and no other, got %v", result.Sources)
			}
			for o := range result.Sources {
				if !strings.HasPrefix(o.Name.Name, "good") {
					t.Errorf("want the good object, got %s", o)
				}
			}
		})
	}
}

// wanted reads the comments that say what is wrong.
func wanted(t *testing.T, file string) []found {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []found
	for i, line := range strings.Split(string(content), "\n") {
		if _, claim, ok := strings.Cut(line, "# want "); ok {
			field, message, _ := strings.Cut(claim, " | ")
			want = append(want, found{i + 1, field, message})
		}
	}
	return sorted(want)
}

func sorted(list []found) []found {
	slices.SortFunc(list, func(a, b found) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Field+a.Message, b.Field+b.Message)
	})
	return list
}

// A rule that no claim states is one that nobody has seen to hold.
func TestEveryRuleIsClaimed(t *testing.T) {
	t.Parallel()
	claimed := map[string]bool{"user is immutable": true} // see TestUpdates
	files, err := filepath.Glob("testdata/claims/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, f := range wanted(t, file) {
			claimed[strings.TrimSuffix(f.Message, ".")] = true
		}
	}
	rules := 0
	for _, definition := range definitions(t) {
		walkSchema(definition.Spec.Versions[0].Schema.OpenAPIV3Schema, func(s *apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				rules++
				if !claimed[rule.Message] {
					t.Errorf("%s: no file in testdata/claims wants %q", definition.Name, rule.Message)
				}
			}
		})
	}
	if rules < 15 {
		t.Errorf("found %d rules, want more: is the walk complete?", rules)
	}
}

func walkSchema(s *apiextensionsv1.JSONSchemaProps, visit func(*apiextensionsv1.JSONSchemaProps)) {
	visit(s)
	for _, p := range s.Properties {
		walkSchema(&p, visit)
	}
	if s.Items != nil {
		walkSchema(s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil {
		walkSchema(s.AdditionalProperties.Schema, visit)
	}
}

// The definitions must pass what an API server asks of them, the bounds on the cost of rules included.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	for _, definition := range definitions(t) {
		t.Run(definition.Spec.Names.Kind, func(t *testing.T) {
			t.Parallel()
			apiextensionsv1.SetDefaults_CustomResourceDefinition(definition)
			apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&definition.Spec)
			var internal apiextensions.CustomResourceDefinition
			if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(definition, &internal, nil); err != nil {
				t.Fatal(err)
			}
			internal.Status.StoredVersions = []string{definition.Spec.Versions[0].Name}
			for _, err := range apiextensionsvalidation.ValidateCustomResourceDefinition(context.WithoutCancel(t.Context()), &internal) {
				t.Error(err)
			}
		})
	}
}

func definitions(t *testing.T) []*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	names, err := fs.Glob(crd.Files, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, name := range names {
		content, err := crd.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		definition := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(content, definition); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(definition.Spec.Versions) != 1 {
			t.Fatalf("%s has %d versions; package manifest reads the first only", name, len(definition.Spec.Versions))
		}
		all = append(all, definition)
	}
	if len(all) != 5 {
		t.Fatalf("found %d definitions, want 5", len(all))
	}
	return all
}
