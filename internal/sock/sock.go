//go:build linux && !race

// Package sock decides that Go's scheduler is not told when a connection is read or written.
//
// It is told of every system call, because some take long: it then gives the core to another thread. Those on sockets, which never
// block, take it some microseconds; but where other processes want the cores as well they are often interrupted, look long, and cost two
// changes of threads each. A service that does little else spends a tenth of its time on these. The price is that the collector's short
// stops wait for a call that is under way.
package sock

import "net"

// New returns a connection that is c but for that. All that net.Conn promises is as it was: deadlines, Close from another goroutine, and that
// reads and writes may go on at once. What c can do besides is lost, such as all that a net.TCPConn has. A connection without a file
// descriptor is returned as it is; so is every one on systems other than Linux, and under the race detector, to which reading and writing tell
// what happened before what.
func New(c net.Conn) net.Conn { return direct(c) }
