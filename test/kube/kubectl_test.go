package kube_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// A person has kubectl with our plugin, and what make run-kube prints.
type person struct{ kubeconfig, plugins string }

func newPerson(t *testing.T, s *stack.Stack) person {
	t.Helper()
	kubeconfig, err := s.Administrator()
	if err != nil {
		t.Fatal(err)
	}
	plugins := t.TempDir()
	for _, name := range []string{"kubectl-tierkeeper", "kubectl_complete-tierkeeper"} {
		if err := os.Symlink(binary, filepath.Join(plugins, name)); err != nil {
			t.Fatal(err)
		}
	}
	return person{kubeconfig, plugins}
}

func (p person) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("KUBE_ASSETS"), "kubectl"), args...) //nolint:gosec // The Makefile says where it is.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "PATH="+p.plugins+string(filepath.ListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// samples are the directories that people apply, each with a key and what its first request is answered.
var samples = map[string]string{
	"quickstart": "demo-free", "key-tiers": "sk-free-0123456789abcdef", "gateway-tiers": "sk-free-0123456789abcdef",
	"model-size-tiers": "sk-standard-0123456789abcdef", "every-answer": "demo-caller",
}

// TestWithPlainKubectl does what docs/cluster.md says, sample by sample, on one cluster.
func TestWithPlainKubectl(t *testing.T) {
	t.Parallel()
	s, _, service := running(t)
	p := newPerson(t, s)
	go func() {
		if err := s.KeepEnvoys(t.Context(), service.Address); err != nil && t.Context().Err() == nil {
			t.Errorf("keeping Envoys: %v", err)
		}
	}()
	for _, name := range []string{"every-answer", "gateway-tiers", "key-tiers", "model-size-tiers", "quickstart"} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			dir := sampleAt(t, name, port)
			p.kubectl(t, "apply", "-f", dir)
			p.kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "--all", "--all-namespaces", present(t, p))
			awaitStatus(t, port, samples[name], http.StatusOK)
			if name == "quickstart" {
				p.tryQuickstart(t, port)
				p.tryPlugin(t, s, service, port)
			}
			p.kubectl(t, "delete", "qgw,akq,uq,rlt,mlim", "--all", "--all-namespaces")
		})
	}
}

// present lists the kinds of ours of which there is an object: kubectl waits for none that is not there.
func present(t *testing.T, p person) string {
	t.Helper()
	var kinds []string
	for _, kind := range []string{"rlt", "mlim", "akq", "uq", "qgw"} {
		if p.kubectl(t, "get", kind, "--all-namespaces", "-o", "name") != "" {
			kinds = append(kinds, kind)
		}
	}
	return strings.Join(kinds, ",")
}

// sampleAt copies a sample, but for the port.
func sampleAt(t *testing.T, name string, port int) string {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob("../../config/samples/" + name + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding sample %s: %d files, %v", name, len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(content), "port: 8080, protocol", fmt.Sprintf("port: %d, protocol", port), 1)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(text), 0o600); err != nil { //nolint:gosec // It is in a directory of the test's.
			t.Fatal(err)
		}
	}
	return dir
}

// tryQuickstart uses the limits up, edits the plan, and deletes a quota.
func (p person) tryQuickstart(t *testing.T, port int) {
	t.Helper()
	await(t, "10 requests a minute are used up, which is shown beside the plan", func() error { // The minute may end on the way.
		status, body, err := chat(t.Context(), port, "demo-free")
		if err != nil {
			return err
		}
		if status != http.StatusTooManyRequests {
			return fmt.Errorf("it answers %d %s", status, body)
		}
		wide := strings.Join(strings.Fields(p.kubectl(t, "get", "akq", "demo-free", "-o", "wide", "--no-headers")), " ")
		if !strings.HasPrefix(wide, "demo-free free 10 10 True Ready Key/Requests/Minute") {
			return fmt.Errorf("kubectl shows %q", wide)
		}
		return nil
	})
	if head := p.kubectl(t, "get", "akq", "-o", "wide"); !strings.HasPrefix(head, "NAME") || strings.Join(strings.Fields(strings.SplitN(head, "\n", 2)[0]), " ") != "NAME TIER USER STATE EXPIRES USED MAX READY REASON LIMIT AGE" {
		t.Errorf("kubectl get -o wide shows\n%s", head)
	}
	p.kubectl(t, "patch", "rlt", "free", "--type=json", "-p", `[{"op": "replace", "path": "/spec/limits/rates/0/max", "value": 1000}]`)
	awaitStatus(t, port, "demo-free", http.StatusOK)
	p.kubectl(t, "delete", "akq", "demo-free")
	awaitStatus(t, port, "demo-free", http.StatusUnauthorized)
	awaitStatus(t, port, "demo-pro", http.StatusOK)
}

// tryPlugin asks for what holds, and for what is used, as "kubectl tierkeeper".
func (p person) tryPlugin(t *testing.T, s *stack.Stack, service *stack.Process, port int) {
	t.Helper()
	if got := p.kubectl(t, "tierkeeper", "effective", "--key", "demo-pro"); !strings.Contains(got, "Limits of ApiKeyQuota default/demo-pro, on tier pro") {
		t.Errorf("kubectl tierkeeper effective says\n%s", got)
	}
	for begun, want := range map[string]string{"d": "demo-pro\n", "default/": "default/demo-pro\n"} {
		if got := p.kubectl(t, "__complete", "tierkeeper", "effective", "--key", begun); !strings.Contains(got, "\n"+want) {
			t.Errorf("kubectl completes the key %q of kubectl tierkeeper effective by\n%s", begun, got)
		}
	}
	p.kubectl(t, "config", "set-context", "--current", "--namespace", stack.Namespace)
	if got := p.kubectl(t, "__complete", "tierkeeper", "effective", "--key", ""); strings.Contains(got, "demo-pro") {
		t.Errorf("in a context with another namespace kubectl completes a key by\n%s", got)
	}
	if got := p.kubectl(t, "tierkeeper", "effective", "-n", "default", "--key", "demo-pro"); !strings.Contains(got, "Limits of ApiKeyQuota default/demo-pro") {
		t.Errorf("kubectl tierkeeper effective -n default says\n%s", got)
	}
	p.kubectl(t, "config", "set-context", "--current", "--namespace", "default")
	p.tryAsTenant(t, s)
	log, err := service.Log()
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`Admin: (\S+)`).FindSubmatch(log)
	if address == nil {
		t.Fatalf("the service tells no admin address:\n%s", log)
	}
	await(t, "kubectl tierkeeper usage tells what is used", func() error { // The minute may end on the way.
		answers(t, port, "demo-pro", http.StatusOK)
		used := strings.Join(strings.Fields(p.kubectl(t, "tierkeeper", "usage", "--admin", string(address[1]), "demo-pro")), " ")
		if !regexp.MustCompile(`Requests Minute [1-9]\d* 100 `).MatchString(used) {
			return fmt.Errorf("it says\n%s", used)
		}
		return nil
	})
}

// tryAsTenant asks for what holds with no more rights than help says: none to namespaces, nor to gateways of others.
func (p person) tryAsTenant(t *testing.T, s *stack.Stack) {
	t.Helper()
	_, kubeconfig, err := s.User("ann")
	if err != nil {
		t.Fatal(err)
	}
	ann := person{filepath.Join(t.TempDir(), "kubeconfig"), p.plugins}
	if err := os.WriteFile(ann.kubeconfig, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	p.kubectl(t, "create", "rolebinding", "ann", "--clusterrole=tierkeeper-view", "--user=ann", "--namespace=default")
	p.kubectl(t, "create", "clusterrolebinding", "ann", "--clusterrole=tierkeeper-plans", "--user=ann")
	p.kubectl(t, "label", "namespace", "default", "team=a")
	p.kubectl(t, "patch", "rlt", "pro", "--type=merge", "-p", `{"spec": {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}}`)
	p.kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "rlt/pro", "akq/demo-pro")
	if got := ann.kubectl(t, "tierkeeper", "effective", "--key", "demo-pro"); !strings.Contains(got, "Limits of ApiKeyQuota default/demo-pro, on tier pro") {
		t.Errorf("kubectl tierkeeper effective says to a tenant\n%s", got)
	}
}
