package bench

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

// A process is a server that runs in a process of its own, so that its CPU is its own.
type process struct {
	address string
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// start runs this test binary again, as a server.
func start(tb testing.TB, kind string) *process {
	tb.Helper()
	binary, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{command: exec.CommandContext(tb.Context(), binary)}
	p.command.Env = append(os.Environ(), kindVariable+"="+kind)
	p.command.Stderr = os.Stderr
	in, err := p.command.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		tb.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	tb.Cleanup(p.stop)
	p.address = p.line(tb)
	return p
}

func (p *process) stop() {
	_ = p.in.Close()
	_ = p.command.Wait() // It ends with its input, or was ended with the test.
}

func (p *process) pid() int { return p.command.Process.Pid }

func (p *process) line(tb testing.TB) string {
	tb.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		tb.Fatalf("reading from the server: %v", err)
	}
	return strings.TrimSpace(line)
}

// figure asks the server for its figure: see serve and obey.
func (p *process) figure(tb testing.TB) uint64 {
	tb.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		tb.Fatalf("asking the server: %v", err)
	}
	n, err := strconv.ParseUint(p.line(tb), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func processCPU(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	took, err := meter.CPU(pid)
	if err != nil {
		tb.Fatal(err)
	}
	return took
}

func ownCPU(tb testing.TB) time.Duration {
	tb.Helper()
	return processCPU(tb, os.Getpid())
}

func machineCPU(tb testing.TB) time.Duration {
	tb.Helper()
	took, err := meter.Machine()
	if err != nil {
		tb.Fatal(err)
	}
	return took
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(content)
}
