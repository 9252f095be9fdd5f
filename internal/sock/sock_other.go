//go:build !linux || race

package sock

import "net"

// New returns c: see sock.go.
func New(c net.Conn) net.Conn { return c }
