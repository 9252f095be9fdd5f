package child_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/await"
	"github.com/tierkeeper/tierkeeper/internal/child"
)

// parent is set where this binary is run to start a child, say its number and wait.
const parent = "TIERKEEPER_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parent) == "" {
		os.Exit(m.Run())
	}
	p, err := child.Start(exec.Command("sleep", "600"))
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, p.PID())
	<-p.Ended()
}

// run runs a program until it has written a line, and returns what it wrote.
func run(t *testing.T, cmd *exec.Cmd) (*child.Process, string) {
	t.Helper()
	var said child.Output
	cmd.Stdout = &said
	p, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if err := p.Until(t.Context(), func() bool { return strings.HasSuffix(said.String(), "\n") }); err != nil {
		t.Fatal(err)
	}
	return p, strings.TrimSpace(said.String())
}

func TestNothingOutlivesItsParent(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("Linux alone ties a child to its parent.")
	}
	cmd := exec.Command(os.Args[0]) //nolint:gosec // This test itself.
	cmd.Env = append(os.Environ(), parent+"=1")
	p, grandchild := run(t, cmd)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	await.True(t, 30*time.Second, "the child of one that was killed has ended", func() bool {
		line, err := os.ReadFile("/proc/" + grandchild + "/cmdline") //nolint:gosec // A number of ours.
		return err != nil || len(line) == 0                          // Nobody may have noticed yet that it has ended.
	})
}

func TestAPausedProcessCanBeStopped(t *testing.T) {
	t.Parallel()
	p, _ := run(t, exec.Command("sh", "-c", "echo ready; exec sleep 600"))
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil || !p.HasEnded() || p.Err().Error() != "signal: terminated" {
		t.Errorf("stopping a paused process failed with %v, and it ended with %v", err, p.Err())
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping one that has ended failed with %v", err)
	}
}

func TestAProcessThatEndsIsNotAwaitedUntilItIsReady(t *testing.T) {
	t.Parallel()
	p, err := child.Start(exec.Command("sh", "-c", "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Until(t.Context(), func() bool { return false }); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("waiting failed with %v, want that it ended with exit status 3", err)
	}
}

func TestAProgramThatIsNotThereIsSaid(t *testing.T) {
	t.Parallel()
	if _, err := child.Start(exec.Command("./nothing")); err == nil || !strings.Contains(err.Error(), "./nothing") {
		t.Errorf("starting failed with %v, want an error that names the program", err)
	}
}
