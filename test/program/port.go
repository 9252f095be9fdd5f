package program

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ReservePort returns a port of 127.0.0.1 that nobody else is given before the test ends: it is held by a socket that is bound and does
// not listen. Envoy's listeners allow ports to be shared (SO_REUSEPORT), so Envoy can listen on it, again and again; others can at
// another address of loopback.
func ReservePort(t *testing.T) int {
	t.Helper()
	syscall.ForkLock.RLock() // No process that is started inherits it.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return bound.(*unix.SockaddrInet4).Port //nolint:forcetypeassert // It was bound as such.
}
