package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/command"
	calendar "github.com/tierkeeper/tierkeeper/test/program"
)

// TestMain makes the test binary be the programs that are measured, where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(m.Run())
	}
	if slices.Contains(os.Args, "--redis") {
		os.Args = append(os.Args, "--redis-deadline=20s") // A machine that is busy with other tests is not taken for a Redis that is out.
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // It is a main function.
	program := func() int { return command.Execute(ctx, os.Args, os.Stdout, os.Stderr) }
	if os.Args[1] == "floor" || os.Args[1] == "upstream" {
		program = func() int { return execute(ctx, os.Args[1:], os.Stdout, os.Stderr) }
	}
	code := program()
	stop()
	os.Exit(code)
}

// program is one that make installs, by the variable that names it. Without it a test does without, or fails where nothing may be
// left out.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" && os.Getenv("REQUIRE_PEERS") == "1" {
		t.Fatalf("%s names no program to test with: run make test-bench.", variable)
	}
	return path
}

// run runs the program, with this binary for what is measured, and returns what it prints and its exit status.
func run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("this program reads what processes take from /proc, which only Linux has")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, complaints bytes.Buffer
	args = append(args, "--tierkeeper", self, "--seconds", "1", "--warm-seconds", "0.1", "--rounds", "1", "--keys", "100")
	status = execute(t.Context(), args, &out, &complaints)
	return out.String(), complaints.String(), status
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, status := run(t, args...)
	if status != exitDone {
		t.Fatalf("exit status %d\n%s\n%s", status, stdout, stderr)
	}
	return stdout
}

// wantLines fails unless each pattern is found as a line, or the beginning of one.
func wantLines(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)^` + p).MatchString(out) {
			t.Errorf("no line of the output begins with %q:\n%s", p, out)
		}
	}
}

// Real servers, real Redis and the real peer where there are any, below and above their limits.
func TestPeersMeasuresRealServers(t *testing.T) {
	calendar.ClearOf(t, 24*time.Hour) // Limits are per day.
	args := []string{"peers", "--limits", "4", "--despite-others", "--rate", "500"}
	peer := program(t, "RATELIMIT")
	if peer != "" {
		args = append(args, "--ratelimit", peer)
	}
	out := mustRun(t, args...)
	if _, err := exec.LookPath("redis-server"); err == nil || os.Getenv("REQUIRE_PEERS") == "1" {
		wantLines(t, out, `redis +\d`, `redis-settle +\d`, `redis +1000$`, `redis-settle +1000$`, `Redis: CPU beside floor +\d`, `Redis: allocations +\d`)
	}
	wantLines(t, out,
		`== 4 limits, below them, 100 subjects, 64 outstanding on 4 connections$`,
		`== 4 limits, above them, 10 subjects, 64 outstanding on 4 connections$`,
		`== 4 limits, below them, 100 subjects, one at a time$`,
		`== 4 limits, below them, 100 subjects, 500 a second$`,
		`floor +\d`, `floor-reserve +\d`, `memory +\d`, `memory-settle +\d`,
		`memory +1000$`, `memory-settle +1000$`,
		`memory: CPU beside floor +\d`, `memory: allocations +\d`,
	)
	if peer == "" {
		wantLines(t, out, `er: not available`, `memory: CPU beside er +–`)
		return
	}
	wantLines(t, out, `er +\d`, `er-cache +\d`, `er +1000$`, `er-cache +1000$`, `memory: CPU beside er +\d`)
}

func TestEnvoyMeasuresWhatIsAdded(t *testing.T) {
	envoy := program(t, "ENVOY")
	if envoy == "" {
		t.Skip("This test needs a real Envoy: run it with make test-bench.")
	}
	out := mustRun(t, "envoy", "--envoy", envoy, "--despite-others", "--rate", "100")
	wantLines(t, out,
		`== Through Envoy, 4 limits and a concurrency limit, one at a time$`,
		`== Through Envoy, 4 limits and a concurrency limit, 100 a second$`,
		`== Through Envoy, 4 limits and a concurrency limit, 32 outstanding on 4 connections$`,
		`nobody +\d`, `floor +\d`, `memory +\d`,
		`p50: floor adds -?\d`, `p50: memory adds -?\d.* × what floor adds \(target ≤ 2: (NOT )?met\)$`,
	)
}

// Processes that compute without end disturb every round.
func TestNothingIsJudgedWhileOthersWork(t *testing.T) {
	if runtime.GOOS == "linux" {
		for range runtime.NumCPU() { // One alone may get too little beside what is measured.
			spinner := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
			if err := spinner.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = spinner.Wait() }) // It is killed with the context of the test.
		}
	}
	out, complaints, status := run(t, "peers", "--only", "floor", "--limits", "1", "--patience-seconds", "0")
	if status != exitDisturbed || !strings.Contains(complaints, "is dropped: other work took") {
		t.Errorf("exit status %d, want %d:\n%s", status, exitDisturbed, complaints)
	}
	if !strings.Contains(out, "no figures: other work took 0.35 of a core or more in all but 0 of 2 rounds") || strings.Contains(out, "requests/s") {
		t.Errorf("figures are printed:\n%s", out)
	}
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--rounds 0 is not between 1 and 50":          {"peers", "--rounds", "0"},
		"--limits 9 is not between 1 and 8":           {"peers", "--limits", "4,9"},
		"--only nginx is not one of what is measured": {"peers", "--only", "nginx"},
		"--seconds and --keys must be above 0":        {"envoy", "--seconds", "0"},
		"--outstanding at least --connections":        {"peers", "--outstanding", "3"},
		`unknown command "nonsense" for "sidebyside"`: {"nonsense"},
		"unknown flag: --nonsense":                    {"floor", "--nonsense"},
	} {
		var out, complaints bytes.Buffer
		if status := execute(t.Context(), args, &out, &complaints); status != exitUsage || !strings.Contains(complaints.String(), want) {
			t.Errorf("%v: exit status %d, want %d; it says %q, want %q", args, status, exitUsage, complaints.String(), want)
		}
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"peers"}, {"envoy"}, {"profile"}, {"floor"}, {"upstream"}} {
		var out, complaints bytes.Buffer
		if status := execute(t.Context(), append(args, "--help"), &out, &complaints); status != exitDone || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%v --help: exit status %d, and it says %q", args, status, out.String())
		}
	}
}
