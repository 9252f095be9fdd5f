package meter_test

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

func TestTimesAreReadRight(t *testing.T) {
	t.Parallel()
	const stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 11 22 33 44 150 50 7 8 20 0 9 0 12345 0 0"
	if got, err := meter.OfProcess(stat); got != 2*time.Second || err != nil {
		t.Errorf("the process took %v (%v), want 2s", got, err)
	}
	const machine = "cpu  100 10 20 5000 600 1 2 3 40 50\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
	if got, err := meter.OfMachine(machine); got != 1360*time.Millisecond || err != nil {
		t.Errorf("the machine took %v (%v), want 1.36s", got, err)
	}
	for _, bad := range []string{"", "4711 (a) S 1", "4711 (a) S 1 4711 4711 0 -1 4194560 11 22 33 44 one two"} {
		if got, err := meter.OfProcess(bad); err == nil {
			t.Errorf("%q is read as %v, want an error", bad, got)
		}
	}
}

// On Linux the meters tell of this process, and of no process that is not there.
func TestThisProcessIsMeasured(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the meters read /proc, which only Linux has")
	}
	took, err := meter.Calibrate()
	if took <= 0 || err != nil {
		t.Errorf("the fixed work took %v (%v)", took, err)
	}
	if got, err := meter.CPU(os.Getpid()); got <= 0 || err != nil {
		t.Errorf("this process took %v (%v), and has just worked", got, err)
	}
	if got, err := meter.Memory(os.Getpid()); got < 1<<20 || err != nil {
		t.Errorf("this process takes %d bytes (%v), want at least a MiB", got, err)
	}
	machine, err := meter.Machine()
	if own, _ := meter.CPU(os.Getpid()); machine < own || err != nil {
		t.Errorf("the machine took %v (%v), and this process alone %v", machine, err, own)
	}
	if _, err := meter.CPU(-1); err == nil {
		t.Error("there is a process -1")
	}
	if got := meter.Describe(); !strings.Contains(got, runtime.Version()) {
		t.Errorf("the machine is %q, want the version of Go too", got)
	}
}
