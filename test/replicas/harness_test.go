// Package replicas_test decides whether several replicas of the rate-limit service count as one: the real program, as processes
// of their own, on real Redis servers that are made to fail, and callers that speak Envoy's protocol, or Envoy. Each test is a claim, on an
// installation of its own. Figures are printed, and only generous bounds asserted: what they are worth depends on the machine.
package replicas_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/await"
	"github.com/tierkeeper/tierkeeper/test/program"
)

const soon = time.Minute // for what happens within seconds on a machine that has nothing else to do

var (
	eventually = await.True
	clearOf    = program.ClearOf
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		os.Exit(m.Run()) // Each test says what it lacks.
	}
	program.AtOnce(4)
	os.Exit(program.Build(func(path string) int {
		binary = path
		return m.Run()
	}))
}

// write makes a file in a folder of the test's own, and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pass lets the load go on for a while: what is waited for is that it has.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// joined are manifests of some documents.
func joined(docs ...string) string { return strings.Join(docs, "\n---\n") }
