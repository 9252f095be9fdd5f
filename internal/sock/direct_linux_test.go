package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// TestConn has the suite that all connections of Go must pass try ours, as either side and as both.
func TestConn(t *testing.T) {
	t.Parallel()
	as := func(c net.Conn) net.Conn { return c }
	for name, sides := range map[string]struct{ one, other func(net.Conn) net.Conn }{
		"both":      {direct, direct},
		"one":       {direct, as},
		"the other": {as, direct},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, func() (one, other net.Conn, stop func(), err error) {
				a, b := pair(t)
				one, other = sides.one(a), sides.other(b)
				return one, other, func() { _, _ = one.Close(), other.Close() }, nil
			})
		})
	}
}

// pair are two ends of a connection.
func pair(t *testing.T) (one, other net.Conn) {
	t.Helper()
	l, err := nettest.NewLocalListener("tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	one, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other = <-accepted
	if other == nil {
		t.Fatal("not accepted")
	}
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	return one, other
}

// TestMoreThanFitsIsWrittenWhole, though the kernel takes it in parts, and all of the end is told.
func TestMoreThanFitsIsWrittenWhole(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a, b = direct(a), direct(b)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	wrote := make(chan error, 1)
	go func() {
		n, err := a.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		_ = a.Close()
		wrote <- err
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d arrived whole: %v, %v", len(got), len(sent), bytes.Equal(got, sent), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// TestErrorsAreThoseOfTheSystem, by which callers know what has become of a connection.
func TestErrorsAreThoseOfTheSystem(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a = direct(a)
	if err := a.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading late: %d, %v", n, err)
	}
	if err := a.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := b.(*net.TCPConn).SetLinger(0); err != nil { //nolint:forcetypeassert // Else the test fails, as it should.
		t.Fatal(err)
	}
	_ = b.Close() // by a reset
	n, err := a.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading what was reset: %d, %v", n, err)
	}
	if of := net.Error(nil); !errors.As(err, &of) || !strings.Contains(err.Error(), b.LocalAddr().String()) {
		t.Errorf("the error does not name the peer: %v", err)
	}
	if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to what was reset: %d, %v", n, err)
	}
	_ = a.Close()
	if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading what is closed: %d, %v", n, err)
	}
}

// TestWhatIsWrittenInPartIsTold, also when the peer does not read and the deadline ends it, or Close does.
func TestWhatIsWrittenInPartIsTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(c net.Conn) error
		want error
	}{
		"deadline": {func(c net.Conn) error { return c.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"close":    {net.Conn.Close, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			a = direct(a)
			type result struct {
				n   int
				err error
			}
			wrote := make(chan result, 1)
			go func() {
				n, err := a.Write(make([]byte, 64<<20))
				wrote <- result{n, err}
			}()
			if _, err := io.ReadFull(b, make([]byte, 1)); err != nil { // It has begun.
				t.Fatal(err)
			}
			if err := test.end(a); err != nil {
				t.Fatal(err)
			}
			got := <-wrote
			if got.n == 0 || !errors.Is(got.err, test.want) {
				t.Errorf("%d are written, %v, want some and %v", got.n, got.err, test.want)
			}
			_ = a.Close()
			if n, err := io.Copy(io.Discard, b); err != nil || int(n)+1 != got.n {
				t.Errorf("%d have arrived, %v, want %d", n+1, err, got.n)
			}
		})
	}
}

// TestAPeerThatWritesNoMoreIsStillWrittenTo: each way ends by itself.
func TestAPeerThatWritesNoMoreIsStillWrittenTo(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a = direct(a)
	if err := b.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // Else the test fails, as it should.
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("reading: %d, %v, want the end", n, err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestWhatIsNoSocketIsLeftAlone: it has no file descriptor.
func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	t.Parallel()
	c, _ := net.Pipe()
	if direct(c) != c {
		t.Error("a pipe is not returned as it is")
	}
}

// TestNothingIsAllocated by what is done at each request.
func TestNothingIsAllocated(t *testing.T) {
	a, b := pair(t)
	a, b = direct(a), direct(b)
	p := []byte("ping")
	allocated := testing.AllocsPerRun(100, func() {
		if _, err := a.Write(p); err != nil {
			t.Error(err)
		}
		if _, err := b.Read(p); err != nil {
			t.Error(err)
		}
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}
