// Package port decides how a port of loopback is found at which somebody is going to listen later, perhaps again and again.
package port

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hold returns a port of 127.0.0.1 that nobody else is given before it is released, or this process ends: it is held by a socket that
// is bound and does not listen. Who asks for that very port gets it all the same, as long as he lets addresses be used again
// (SO_REUSEADDR, as Go's and Redis' listeners do, or SO_REUSEPORT, as Envoy's do). Elsewhere than on Linux that would be refused, so
// that there the port is only one that was free. It is safe for concurrent use.
func Hold() (port int, release func(), err error) {
	fd, err := socket()
	if err != nil {
		return 0, nil, fmt.Errorf("making a socket: %w", err)
	}
	port, err = bind(fd)
	if err != nil {
		_ = unix.Close(fd)
		return 0, nil, fmt.Errorf("finding a free port: %w", err)
	}
	if runtime.GOOS != "linux" {
		return port, func() {}, unix.Close(fd)
	}
	return port, func() { _ = unix.Close(fd) }, nil
}

func socket() (int, error) {
	syscall.ForkLock.RLock() // No process that is started inherits it.
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err //nolint:wrapcheck // Hold says what for.
}

func bind(fd int) (int, error) {
	err := errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})),
	)
	if err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	return bound.(*unix.SockaddrInet4).Port, nil //nolint:forcetypeassert // It was bound as such.
}

// A TB is a test.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(f func())
}

// Reserve holds a port until a test ends.
func Reserve(tb TB) int {
	tb.Helper()
	port, release, err := Hold()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(release)
	return port
}
