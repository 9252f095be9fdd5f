package envoy_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/child"
)

func TestSignalsEndCleanlyWhileStreamsAreOpen(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := guarded(t)
			streams := s.openAll(t, 5, endless(keyGood))
			s.stop(t, signal)
			for _, st := range streams {
				if body, err := st.end(t); err == nil {
					t.Errorf("a stream ended as if it was whole: %s", body)
				}
			}
			if strings.Contains(s.Stderr.String(), "panic") {
				t.Error("something panicked")
			}
		})
	}
}

// Two processes would count apart.
func TestASecondProcessOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	second := &system{manifests: s.manifests, dataDir: s.dataDir, port: reservePort(t)}
	second.refuses(t, "another process holds it: is another tierkeeper running with this --data-dir?")
	s.checkAlive(t, 0)
}

func TestAPortInUseIsRefused(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	second := &system{manifests: s.manifests, dataDir: t.TempDir(), port: s.port}
	second.refuses(t, "something listens on 127.0.0.1:"+s.port.String()+" already; choose another port")
	s.checkAlive(t, 0)
}

func TestAnEnvoyThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	other := filepath.Join(t.TempDir(), "other")
	if err := child.WriteScript(other, "#!/bin/sh\necho other 1.0\n"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ path, says string }{
		"nothing there":   {filepath.Join(t.TempDir(), "nothing"), "name the binary with --envoy, or start none with --envoy=none"},
		"another program": {other, "does not say that it is Envoy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prepare(t, manifests(gateway)).refuses(t, tc.says, "--envoy", tc.path)
		})
	}
}

// refuses demands that the process ends at once with exit code 1 and an error that says so.
func (s *system) refuses(t *testing.T, says string, flags ...string) {
	t.Helper()
	p := s.launch(t, flags...)
	if exit, ok := errors.AsType[*exec.ExitError](p.Result(t)); !ok || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", p.Err())
	}
	if !strings.Contains(p.Stderr.String(), says) {
		t.Errorf("stderr says %q, want %q", p.Stderr.String(), says)
	}
	if strings.Contains(p.Stdout.String(), "serves http") {
		t.Error("it says that it serves")
	}
}
