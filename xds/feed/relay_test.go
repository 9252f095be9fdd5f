package feed_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A relay is between a client and a server, as a network is. It can lose everything, and close nothing.
type relay struct {
	address string

	mu    sync.Mutex
	hangs bool
	conns []net.Conn
}

func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			toServer, err := new(net.Dialer).DialContext(t.Context(), "tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.keep(client, toServer)
			running.Go(func() { r.copy(toServer, client) })
			running.Go(func() { r.copy(client, toServer) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.closeAll()
		running.Wait()
	})
	return r
}

// copy takes everything and passes it on unless the relay hangs.
func (r *relay) copy(to io.WriteCloser, from io.Reader) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		lost := r.hangs
		r.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (r *relay) keep(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, conns...)
}

func (r *relay) closeAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
}

func (r *relay) hang() { r.setHangs(true) }
func (r *relay) goOn() { r.setHangs(false) }

func (r *relay) setHangs(hangs bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangs = hangs
}
