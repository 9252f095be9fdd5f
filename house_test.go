// The rules of the house that hold for the whole tree: every package explains itself, the arrows between packages point
// one way, and no file knows the machine it was written on.
package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/tierkeeper/tierkeeper"

// imports says which of our own packages a package may import. A row for "a/..." holds for a and all below it that have
// no row of their own; among several the longest holds. Tests may import anything.
var imports = map[string][]string{
	".":                 {"command"},
	"api/...":           {},
	"policy":            {"api/..."},
	"descriptor":        {},
	"xds/envoy":         {"policy", "descriptor"},
	"xds/feed":          {"policy", "xds/feed/feedv1", "mtls", "internal/boltfile", "internal/pause"},
	"xds/feed/feedv1":   {},
	"xds/server":        {"policy", "xds/envoy", "mtls"},
	"xds/secret":        {"policy"},
	"ratelimit":         {"policy", "descriptor", "counter", "internal/pause"},
	"usage":             {"api/...", "policy", "ratelimit"},
	"usage/kube":        {"api/...", "policy", "usage"},
	"counter":           {},
	"counter/...":       {"counter", "internal/boltfile"},
	"counter/redis":     {"counter", "internal/pause", "internal/sock"},
	"counter/outage":    {"counter", "counter/memory"},
	"config/crd":        {},
	"manifest":          {"api/...", "policy", "config/crd"},
	"demo":              {},
	"mtls":              {},
	"grpcserver":        {"internal/sock"},
	"election":          {},
	"admin":             {"policy", "ratelimit", "mtls"},
	"controllers":       {"api/...", "policy", "election"},
	"operator":          {"controllers", "policy", "xds/...", "grpcserver", "mtls"},
	"standalone":        {"policy", "xds/...", "ratelimit", "counter/...", "manifest", "demo", "admin", "grpcserver", "mtls", "internal/child"},
	"command":           anything,
	"internal/await":    {},
	"internal/boltfile": {},
	"internal/child":    {},
	"internal/golden":   {},
	"internal/pause":    {},
	"internal/port":     {},
	"internal/sock":     {},
	"internal/testca":   {},
	"test/...":          anything,

	"counter/redis/redistest": {"internal/await", "internal/child", "internal/port"},
}

var anything = []string{"./..."}

// outside says which packages may import a module that would tie the others to Kubernetes, to Envoy or to a store.
var outside = map[string][]string{
	"k8s.io/client-go":               {"controllers", "operator", "election", "usage/kube", "command", "standalone", "test/..."},
	"sigs.k8s.io/controller-runtime": {"controllers", "operator", "usage/kube", "command", "standalone", "test/..."},
	"github.com/envoyproxy":          {"xds/...", "ratelimit", "test/..."},
	"github.com/redis/rueidis":       {"counter/redis"},
	"google.golang.org/grpc":         {"xds/...", "ratelimit", "grpcserver", "mtls", "operator", "standalone", "command", "test/..."},
}

func TestEveryPackageHasOnePackageComment(t *testing.T) {
	t.Parallel()
	for dir, files := range packages(t) {
		if got := packageComments(files); got != 1 {
			t.Errorf("%s: %d of its files have a package comment, want one that says what the package decides", dir, got)
		}
	}
}

func TestImportsFollowTheTable(t *testing.T) {
	t.Parallel()
	for dir, files := range packages(t) {
		for _, complaint := range wrongImports(dir, importsOf(files)) {
			t.Error(complaint)
		}
	}
}

// The table would be worth nothing if it let everything pass.
func TestTheTableRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		dir, imported string
		want          []string
	}{
		"an arrow that points back": {
			"policy", module + "/ratelimit",
			[]string{"policy may not import ratelimit: see the table in house_test.go"},
		},
		"a package below one that may be imported": {
			"ratelimit", module + "/counter/memory",
			[]string{"ratelimit may not import counter/memory: see the table in house_test.go"},
		},
		"Envoy's types in the wrong place": {
			"policy", "github.com/envoyproxy/go-control-plane/envoy/type/v3",
			[]string{"policy may not import github.com/envoyproxy/go-control-plane/envoy/type/v3: see the table in house_test.go"},
		},
		"a package without a row": {
			"newcomer", "fmt",
			[]string{"newcomer is not in the table of imports: add a row to house_test.go that says what it may import"},
		},
		"but not what the table allows":            {"policy", module + "/api/v1alpha1", nil},
		"but not what the longest row allows":      {"counter/memory", module + "/counter", nil},
		"but not a module with a similar name":     {"policy", "github.com/envoyproxyless/other", nil},
		"but not the standard library":             {"api/v1alpha1", "fmt", nil},
		"but nothing in tests of the whole system": {"test/envoy", module + "/command", nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, wrongImports(tc.dir, []string{tc.imported})); diff != "" {
				t.Errorf("complaints (-want +got):\n%s", diff)
			}
		})
	}
}

// machinePath finds an absolute path into the places where this project's authors happen to keep their copies.
var machinePath = regexp.MustCompile(`(^|[^\w./~})*-])/(` + strings.Join([]string{"work", "root", "home", "Users"}, "|") + `)/`)

func TestNoFileNamesAPathOfSomebodysMachine(t *testing.T) {
	t.Parallel()
	walk(t, func(file string) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		for i, line := range strings.Split(string(content), "\n") {
			if machinePath.MatchString(line) {
				t.Errorf("%s:%d names a path that other machines do not have: %s", file, i+1, strings.TrimSpace(line))
			}
		}
	})
}

func TestMachinePathIsFound(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		line string
		want bool
	}{
		"at the start":           {"/" + "root/main.go", true},
		"in quotes":              {`dir = "/` + `work/main"`, true},
		"after a colon":          {"see file:/" + "home/me/notes", true},
		"not in a URL":           {"https://example.com/" + "work/list", false},
		"not in a relative path": {"./" + "work/list and a/" + "root/b", false},
		"not as the whole path":  {"a chroot at /" + "root", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := machinePath.MatchString(tc.line); got != tc.want {
				t.Errorf("machinePath found in %q: %t, want %t", tc.line, got, tc.want)
			}
		})
	}
}

func wrongImports(dir string, imported []string) []string {
	allowed, known := row(dir)
	if !known {
		return []string{dir + " is not in the table of imports: add a row to house_test.go that says what it may import"}
	}
	var complaints []string
	for _, pkg := range imported {
		own, isOwn := strings.CutPrefix(pkg, module+"/")
		if isOwn && covered(own, allowed) || !isOwn && mayLeave(dir, pkg) {
			continue
		}
		complaints = append(complaints, dir+" may not import "+own+": see the table in house_test.go")
	}
	return complaints
}

// row returns what dir may import of our own, by the longest pattern in the table that covers dir.
func row(dir string) (allowed []string, known bool) {
	longest := -1
	for pattern, own := range imports {
		if covers(pattern, dir) && len(pattern) > longest {
			longest, allowed = len(pattern), own
		}
		if pattern == dir {
			return own, true
		}
	}
	return allowed, longest >= 0
}

// mayLeave says whether the package in dir may import pkg, which is not ours.
func mayLeave(dir, pkg string) bool {
	for prefix, users := range outside {
		if covers(prefix+"/...", pkg) && !covered(dir, users) {
			return false
		}
	}
	return true
}

func covered(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return covers(pattern, pkg) })
}

// covers says whether pkg is the one that pattern names or, where pattern ends in "/...", lies below it.
func covers(pattern, pkg string) bool {
	parent, tree := strings.CutSuffix(pattern, "/...")
	return pkg == parent || tree && (parent == "." || strings.HasPrefix(pkg, parent+"/"))
}

// packages returns the Go files of each folder, by its path: without its tests, unless it has nothing else.
func packages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	product, tests := map[string][]*ast.File{}, map[string][]*ast.File{}
	fset := token.NewFileSet()
	walk(t, func(file string) {
		if path.Ext(file) != ".go" {
			return
		}
		parsed, err := parser.ParseFile(fset, file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		into := product
		if strings.HasSuffix(file, "_test.go") {
			into = tests
		}
		into[path.Dir(file)] = append(into[path.Dir(file)], parsed)
	})
	maps.Copy(tests, product)
	return tests
}

func packageComments(files []*ast.File) int {
	n := 0
	for _, file := range files {
		if strings.TrimSpace(file.Doc.Text()) != "" {
			n++
		}
	}
	return n
}

func importsOf(files []*ast.File) []string {
	var all []string
	for _, file := range files {
		for _, spec := range file.Imports {
			all = append(all, strings.Trim(spec.Path.Value, `"`))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// walk calls visit with the path of every file of the project, written with slashes. Test data and what make installs are
// not among them.
func walk(t *testing.T, visit func(file string)) {
	t.Helper()
	skip := []string{".git", ".data", ".idea", ".vscode", "bin", "node_modules", "testdata"}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(skip, entry.Name()):
			return fs.SkipDir
		case entry.Type().IsRegular() && entry.Name() != ".git": // the file of a linked work tree
			visit(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
