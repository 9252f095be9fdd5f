package stack

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// A Front is one address for several servers, as a Service of Kubernetes is: each connection goes to one that is there.
type Front struct {
	listener net.Listener

	mu      sync.Mutex
	servers []string
	next    int
}

func newFront(ctx context.Context) (*Front, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the front of the operators: %w", err)
	}
	f := &Front{listener: l}
	go f.accept()
	return f, nil
}

// Address is where it listens.
func (f *Front) Address() string { return f.listener.Addr().String() }

// Add sends connections to one more server.
func (f *Front) Add(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.servers, address) {
		f.servers = append(f.servers, address)
	}
}

// Remove sends no more connections to a server. Those that are open stay.
func (f *Front) Remove(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers = slices.DeleteFunc(f.servers, func(s string) bool { return s == address })
}

func (f *Front) close() error { return f.listener.Close() }

func (f *Front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		go f.forward(conn)
	}
}

func (f *Front) forward(client net.Conn) {
	server := f.dial()
	if server == nil {
		_ = client.Close()
		return
	}
	copied := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			copied <- struct{}{}
		}()
	}
	<-copied
	_, _ = client.Close(), server.Close()
}

// dial tries each server once, in turn.
func (f *Front) dial() net.Conn {
	f.mu.Lock()
	servers := slices.Clone(f.servers)
	if len(servers) > 0 {
		f.next = (f.next + 1) % len(servers)
		servers = append(servers[f.next:], servers[:f.next]...)
	}
	f.mu.Unlock()
	for _, s := range servers {
		if conn, err := net.Dial("tcp", s); err == nil {
			return conn
		}
	}
	return nil
}
