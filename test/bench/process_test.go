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

// tick is the unit of times in /proc, which Linux gives to programs as 100 in a second on every machine.
const tick = time.Second / 100

func processCPU(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	return ticksOfProcess(tb, read(tb, "/proc/"+strconv.Itoa(pid)+"/stat"))
}

func ownCPU(tb testing.TB) time.Duration {
	tb.Helper()
	return processCPU(tb, os.Getpid())
}

func machineCPU(tb testing.TB) time.Duration {
	tb.Helper()
	return ticksOfMachine(tb, read(tb, "/proc/stat"))
}

// ticksOfProcess adds user and system time, the 14th and 15th field. The second is the name in parentheses, which may hold
// anything.
func ticksOfProcess(tb testing.TB, stat string) time.Duration {
	tb.Helper()
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	return ticks(tb, fields[11]) + ticks(tb, fields[12])
}

// ticksOfMachine adds what is not idle: user, nice, system, interrupts of both kinds, and what the host took away.
func ticksOfMachine(tb testing.TB, stat string) time.Duration {
	tb.Helper()
	fields := strings.Fields(stat) // "cpu" user nice system idle iowait irq softirq steal …
	sum := time.Duration(0)
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		sum += ticks(tb, fields[i])
	}
	return sum
}

func ticks(tb testing.TB, field string) time.Duration {
	tb.Helper()
	n, err := strconv.ParseInt(field, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(n) * tick
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(content)
}

// cpuModel is what the machine calls its processor.
func cpuModel() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "a processor without a name"
	}
	for line := range strings.Lines(string(content)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "a processor without a name"
}
