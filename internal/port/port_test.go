package port_test

import (
	"net"
	"runtime"
	"strconv"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/port"
)

// Others are given ports by the thousand, and who asks for it can listen at it, again and again.
func TestWhoAsksForAPortThatIsHeldGetsItAndNobodyElse(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("Ports are held on Linux alone.")
	}
	held := port.Reserve(t)
	for range 2 {
		if got := listen(t, held); got != held {
			t.Errorf("who asks for port %d listens at %d", held, got)
		}
	}
	for range 2 * ephemeral {
		if listen(t, 0) == held {
			t.Fatal("somebody else was given it")
		}
	}
}

// ephemeral is how many ports are given away by default (ip_local_port_range).
const ephemeral = 28_232

func listen(t *testing.T, at int) int {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(at)))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // It is one.
}
