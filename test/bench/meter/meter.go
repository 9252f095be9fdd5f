// Package meter decides how the work of processes is measured: by what Linux tells of them in /proc.
package meter

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc, which Linux gives to programs as 100 in a second on every machine.
const tick = time.Second / 100

// CPU is the time that a process has computed since it began, in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of a process: %w", err)
	}
	return ofProcess(string(stat))
}

// Machine is the time that all of the machine has computed since it began, in steps of 10 ms: what the host took away included.
func Machine() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of the machine: %w", err)
	}
	return ofMachine(string(stat))
}

// ofProcess adds user and system time, the 14th and 15th field. The second is the name in parentheses, which may hold
// anything.
func ofProcess(stat string) (time.Duration, error) {
	return sum(strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]), 11, 12)
}

// ofMachine adds what is not idle: user, nice, system, interrupts of both kinds, and what the host took away.
func ofMachine(stat string) (time.Duration, error) {
	// "cpu" user nice system idle iowait irq softirq steal …
	return sum(strings.Fields(stat), 1, 2, 3, 6, 7, 8)
}

func sum(fields []string, which ...int) (time.Duration, error) {
	ticks := int64(0)
	for _, i := range which {
		if i >= len(fields) {
			return 0, fmt.Errorf("reading CPU times: there are %d fields, and no %d", len(fields), i)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading CPU times: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// Memory is how much of the machine's memory a process takes, in bytes.
func Memory(pid int) (int64, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("reading the memory of a process: %w", err)
	}
	var kib int64
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("the memory of process %d is not told", pid)
}

// Calibrate is the CPU time that a fixed piece of work takes now, some 50 ms. Where the host is shared, the same work takes
// twice as long at one time as at another; figures of different times can be compared by what this was then.
func Calibrate() (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := threadCPU()
	if err != nil {
		return 0, err
	}
	work()
	after, err := threadCPU()
	return after - before, err
}

// work hashes 8 MiB, and misses caches.
func work() {
	block := make([]byte, 64<<10)
	seen := map[uint32]int{}
	for range 128 {
		digest := sha256.Sum256(block)
		copy(block, digest[:])
		for i, b := range block[:4096] {
			seen[uint32(digest[i%32])<<16|uint32(i)<<4|uint32(b&15)]++
		}
	}
}

// threadCPU is the time that this thread has computed, which Linux tells in nanoseconds.
func threadCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of a thread: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of a thread: %w", err)
	}
	return time.Duration(n), nil
}

// Describe says what machine this is.
func Describe() string {
	parts := []string{processor(), fmt.Sprintf("%d cores", runtime.NumCPU()), kernel(), runtime.Version()}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// processor is what the machine calls its processor.
func processor() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(content)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return "a processor without a name"
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(release))
}
