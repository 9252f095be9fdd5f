package servers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/child"
)

// A redis is a Redis that keeps nothing on disk.
type redis struct {
	*child.Process
	address string
}

func startRedis(ctx context.Context, program, dir string) (*redis, error) {
	dir = filepath.Join(dir, "redis")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of Redis: %w", err)
	}
	port, err := holdPort()
	if err != nil {
		return nil, err
	}
	p, err := run(ctx, dir, "Redis", at(port), nil,
		[]string{program, "--bind", loopback, "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no"})
	if err != nil {
		return nil, err
	}
	return &redis{p, at(port)}, nil
}

// cpu is the time that it has computed, which it tells in microseconds.
func (r *redis) cpu(ctx context.Context) (time.Duration, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return 0, fmt.Errorf("asking Redis: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("INFO cpu\r\n")); err != nil {
		return 0, fmt.Errorf("asking Redis: %w", err)
	}
	var sum time.Duration
	left := 2
	for lines := bufio.NewScanner(conn); left > 0 && lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "used_cpu_sys" && name != "used_cpu_user" {
			continue
		}
		took, err := time.ParseDuration(value + "s")
		if err != nil {
			return 0, fmt.Errorf("reading the CPU time of Redis: %w", err)
		}
		sum += took
		left--
	}
	if left > 0 {
		return 0, fmt.Errorf("the Redis at %s does not tell its CPU time", r.address)
	}
	return sum, nil
}
