package replicas_test

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// serviceName is that of a headless Service.
const serviceName = "tierkeeper-ratelimit.tierkeeper.svc.cluster.local"

// ttl is what the DNS of a cluster says of its Services, in seconds, where nothing else is configured.
const ttl = 30

// names are the DNS of a cluster: serviceName has an address for each replica that is ready.
type names struct {
	at netip.AddrPort // where it is asked, over UDP

	mu    sync.Mutex
	ready []netip.Addr
	asked int // how often
}

// serveNames serves until the end of the test.
func serveNames(t *testing.T) *names {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	n := &names{at: conn.LocalAddr().(*net.UDPAddr).AddrPort()} //nolint:forcetypeassert // It is one of UDP.
	var served sync.WaitGroup
	served.Go(func() { n.serve(t, conn) })
	t.Cleanup(func() {
		_ = conn.Close()
		served.Wait()
	})
	return n
}

func (n *names) serve(t *testing.T, conn *net.UDPConn) {
	buffer := make([]byte, 4096)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return // closed
		}
		answer, err := n.answer(buffer[:size])
		if err != nil {
			t.Errorf("answering a question of DNS: %v", err)
			continue
		}
		_, _ = conn.WriteToUDPAddrPort(answer, from) // Who got none asks again.
	}
}

// answer knows one name, and addresses of IPv4 alone.
func (n *names) answer(question []byte) ([]byte, error) {
	var asked dnsmessage.Message
	if err := asked.Unpack(question); err != nil {
		return nil, err
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: asked.ID, Response: true, RecursionDesired: asked.RecursionDesired, RecursionAvailable: true},
		Questions: asked.Questions,
	}
	for _, q := range asked.Questions {
		switch {
		case q.Name.String() != serviceName+".":
			out.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			out.Answers = n.records(q.Name)
		}
	}
	return out.Pack()
}

func (n *names) records(name dnsmessage.Name) (all []dnsmessage.Resource) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	for _, addr := range n.ready {
		all = append(all, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: &dnsmessage.AResource{A: addr.As4()},
		})
	}
	return all
}

func (n *names) enter(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = append(n.ready, addr)
}

// awaitAsked waits until the addresses have been asked for so often from now on.
func (n *names) awaitAsked(t *testing.T, times int) {
	t.Helper()
	asked := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.asked
	}
	before := asked()
	eventually(t, soon, "the name is looked up", func() bool { return asked() >= before+times })
}

func (n *names) leave(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = slices.DeleteFunc(n.ready, func(other netip.Addr) bool { return other == addr })
}
