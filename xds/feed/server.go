package feed

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A Server tells services the Table that was published last. It is safe for concurrent use.
type Server struct {
	changed func()

	publishing sync.Mutex // before mu: while Tables are compared, streams go on
	table      *policy.Table

	mu      sync.Mutex
	history history
	version string // of the Table; empty: nothing was published
	streams map[*stream]bool
	opened  uint64 // streams
}

// A Client is a service that is connected.
type Client struct {
	Node string
	// Mark is the largest mark such that the client has in force what was published up to it, but for what it refused; 0: it
	// has nothing yet.
	Mark uint64
	// Refused is what the client cannot put in force, in its own words. What it says of everything stands under the zero Object.
	Refused map[policy.Object]string
}

// NewServer makes a Server that tells nobody anything until Publish is called. It calls changed, if not nil, from any
// goroutine and without locks held, when what Clients returns has changed.
func NewServer(changed func()) *Server {
	if changed == nil {
		changed = func() {}
	}
	return &Server{changed: changed, history: history{resources: map[string]resource{}}, streams: map[*stream]bool{}}
}

// Register adds the service to a gRPC server. Its streams end with ctx. Services connect to it from this machine, or with a
// certificate that the gRPC server has verified.
func (s *Server) Register(ctx context.Context, g *grpc.Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: method, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, gs grpc.ServerStream) error {
				if err := mtls.CheckPeer(gs.Context(), "policy says which keys there are"); err != nil {
					return err
				}
				return s.serve(ctx, &grpcServerSide{ServerStream: gs})
			},
		}},
	}, s)
}

// Publish makes t, which comes from Compile, what clients are told. Of it only what differs from the Table before is encoded
// and sent; what only Envoys must know is no difference. The mark names this state of things for Clients: it is above 0, and
// no smaller than the one before.
func (s *Server) Publish(t *policy.Table, mark uint64) {
	s.publish(t, mark)
	s.changed()
}

func (s *Server) publish(t *policy.Table, mark uint64) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if s.table != nil && s.table.Version() == t.Version() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.history.markHead(mark)
		return
	}
	set, gone := t.Changes(s.table)
	s.table = t
	encoded := make(map[string]resource, len(set))
	for _, p := range set {
		content := encode(p)
		encoded[resourceName(p.PartName())] = resource{content, versionOf(content)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range gone {
		s.history.delete(resourceName(n))
	}
	for name, r := range encoded {
		s.history.set(name, r)
	}
	s.version = t.Version()
	s.history.markHead(mark)
	s.compact()
	for st := range s.streams {
		st.wake()
	}
}

// compact drops the history that no stream needs, and ends streams that need so much of it that telling them everything anew
// is less. The lock is held.
func (s *Server) compact() {
	told, acked := s.history.head, s.history.head
	for st := range s.streams {
		if st.known == nil {
			told = min(told, st.cursor)
		}
		if st.told {
			acked = min(acked, st.acked)
		}
		if f := st.flying; f != nil && f.complete {
			acked = min(acked, f.position)
		}
	}
	s.history.compact(told, acked)
	for st := range s.streams {
		if st.known == nil && len(s.history.since(st.cursor)) > 2*len(s.history.resources)+minLog {
			st.end(status.Error(codes.Aborted, "this client reads too slowly: connect again to be told the difference"))
			delete(s.streams, st) // It may hang in a Send, and must not hold up the next one.
		}
	}
}

// Clients lists the clients that are connected, by node. Of a node that has connected twice the later connection counts: the
// earlier may be a dead one.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest := map[string]*stream{}
	for st := range s.streams {
		if other := latest[st.node]; other == nil || other.number < st.number {
			latest[st.node] = st
		}
	}
	clients := make([]Client, 0, len(latest))
	for _, st := range latest {
		c := Client{Node: st.node, Refused: maps.Clone(st.refused)}
		if st.told {
			c.Mark = s.history.markAt(st.acked)
		}
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b Client) int { return cmp.Compare(a.Node, b.Node) })
	return clients
}
