package sock

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// A conn makes the calls of package syscall that say nothing to the scheduler, and has the poller wait where there is nothing to be had.
type conn struct {
	net.Conn

	fd      syscall.RawConn
	in, out transfer
}

// A transfer is what goes one way. Its bytes are here, and not in a closure, because each of those would be an allocation.
type transfer struct {
	mu    sync.Mutex
	bytes []byte
	done  int
	errno syscall.Errno
	try   func(fd uintptr) (over bool)
}

func direct(c net.Conn) net.Conn {
	has, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	fd, err := has.SyscallConn()
	if err != nil {
		return c
	}
	d := &conn{Conn: c, fd: fd}
	d.in.try = func(fd uintptr) bool { return d.in.call(syscall.SYS_READ, fd) }
	d.out.try = func(fd uintptr) bool {
		for d.out.done < len(d.out.bytes) && d.out.errno == 0 {
			if !d.out.call(syscall.SYS_WRITE, fd) {
				return false
			}
		}
		return true
	}
	return d
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.make(p, c.fd.Read)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, c.explain("read", err)
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.make(p, c.fd.Write)
	return n, c.explain("write", err)
}

// explain says of an error of the system what package net says of it: it is a [net.Error], and names both ends.
func (c *conn) explain(what string, err error) error {
	if errno, of := err.(syscall.Errno); of { //nolint:errorlint // It is as the system gave it.
		local := c.LocalAddr()
		return &net.OpError{Op: what, Net: local.Network(), Source: local, Addr: c.RemoteAddr(), Err: os.NewSyscallError(what, errno)}
	}
	return err
}

// make has p transferred, by a poller that tries until that is over.
func (t *transfer) make(p []byte, poll func(try func(fd uintptr) bool) error) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes, t.done, t.errno = p, 0, 0
	err := poll(t.try)
	t.bytes = nil
	if err == nil && t.errno != 0 {
		err = t.errno
	}
	return t.done, err
}

// call makes a system call with what is left. It reports false where that would have to wait.
func (t *transfer) call(number, fd uintptr) bool {
	for {
		left := t.bytes[t.done:]
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(left))), uintptr(len(left))) //nolint:gosec // As package syscall does.
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			t.done += int(n)
		default:
			t.errno = errno
		}
		return true
	}
}
