package feed

import (
	"context"
	"strconv"

	"github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// A stream is one connection of a client, and how far it has got. Its fields are the Server's to lock, but for the channels.
type stream struct {
	node   string
	number uint64

	known  map[string]version // versions by name that the client came with; nil once it is clear what it must be told of them
	todo   []string           // names of which it must be told before it reads the log
	cursor uint64             // position in the log up to which it was told
	flying *flight            // nil: nothing waits for an ACK
	nonces uint64

	told    bool   // a consistent set was acknowledged
	acked   uint64 // position
	refused map[policy.Object]string

	awake chan struct{}
	ended chan error
}

// A flight is a response without its ACK.
type flight struct {
	nonce    string
	complete bool   // a consistent set ends with it
	position uint64 // up to which the set tells
}

func newStream() *stream {
	return &stream{known: map[string]version{}, awake: make(chan struct{}, 1), ended: make(chan error, 1)}
}

// wake lets the stream look for something to tell.
func (st *stream) wake() {
	select {
	case st.awake <- struct{}{}:
	default:
	}
}

func (st *stream) end(err error) {
	select {
	case st.ended <- err:
	default:
	}
}

// serve tells one client, until it goes away or ctx ends.
func (s *Server) serve(ctx context.Context, gs serverStream) error {
	requests := receive(gs)
	st := newStream()
	if err := s.greet(ctx, gs, st, requests); err != nil {
		return err
	}
	defer s.remove(st)
	for {
		if r := s.next(st); r != nil {
			if err := gs.Send(r); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return stopping()
		case <-gs.Context().Done():
			return gs.Context().Err()
		case err := <-st.ended:
			return err
		case <-st.awake:
		case req, open := <-requests:
			if !open {
				return nil
			}
			s.acknowledge(st, req)
		}
	}
}

func stopping() error { return status.Error(codes.Unavailable, "the server stops") }

// receive reads requests until the client says that it is done, or the stream ends. It closes the channel then.
func receive(gs serverStream) <-chan *request {
	requests := make(chan *request)
	go func() {
		defer close(requests)
		for {
			req, err := gs.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- req:
			case <-gs.Context().Done():
				return
			}
		}
	}()
	return requests
}

// greet reads who the client is and what it has, and adds it to the streams once it has said everything.
func (s *Server) greet(ctx context.Context, gs serverStream, st *stream, requests <-chan *request) error {
	for {
		select {
		case <-ctx.Done():
			return stopping()
		case <-gs.Context().Done():
			return gs.Context().Err()
		case req, open := <-requests:
			if !open {
				return nil
			}
			if t := req.GetTypeUrl(); t != typeURL {
				return status.Errorf(codes.InvalidArgument, "type_url is %q, and only %s is served here", t, typeURL)
			}
			if id := req.GetNode().GetId(); id != "" {
				st.node = id
			}
			for name, v := range req.GetInitialResourceVersions() {
				st.known[name] = parseVersion(v)
			}
			if !subscribes(req) {
				continue
			}
			if st.node == "" {
				return status.Error(codes.InvalidArgument, "node.id is empty: it must name the client")
			}
			s.add(st)
			return nil
		}
	}
}

func subscribes(req *request) bool {
	names := req.GetResourceNamesSubscribe()
	return len(names) == 1 && names[0] == everything
}

func (s *Server) add(st *stream) {
	s.mu.Lock()
	s.opened++
	st.number = s.opened
	s.streams[st] = true
	s.mu.Unlock()
	s.changed()
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	s.mu.Unlock()
	s.changed()
}

// acknowledge notes how far the client has got.
func (s *Server) acknowledge(st *stream, req *request) {
	s.mu.Lock()
	f := st.flying
	if f == nil || f.nonce != req.GetResponseNonce() {
		s.mu.Unlock()
		return
	}
	st.flying = nil
	if f.complete {
		st.told, st.acked, st.refused = true, f.position, refusals(req)
	}
	s.mu.Unlock()
	if f.complete {
		s.changed()
	}
}

// refusals is what the client cannot put in force.
func refusals(req *request) map[policy.Object]string {
	if req.GetErrorDetail() == nil {
		return nil
	}
	refused := map[policy.Object]string{}
	for _, detail := range req.GetErrorDetail().GetDetails() {
		var list feedv1.Refusals
		if detail.UnmarshalTo(&list) != nil {
			continue
		}
		for _, r := range list.GetRefusals() {
			if name, err := parseName(r.GetName()); err == nil {
				refused[name.Object] = r.GetWords()
			}
		}
	}
	if len(refused) == 0 {
		refused[policy.Object{}] = req.GetErrorDetail().GetMessage()
	}
	return refused
}

// next is the next response to a client; nil: there is nothing to tell, it must acknowledge the last one first, or its stream
// was ended.
func (s *Server) next(st *stream) *response {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == "" || st.flying != nil || !s.streams[st] {
		return nil
	}
	if st.known != nil {
		st.todo, st.known, st.cursor = s.history.difference(st.known), nil, s.history.head
	}
	if st.told && len(st.todo) == 0 && st.cursor == s.history.head {
		return nil
	}
	st.nonces++
	r := &response{TypeUrl: typeURL, Nonce: strconv.FormatUint(st.nonces, 10)}
	s.fill(r, st)
	st.flying = &flight{r.GetNonce(), len(st.todo) == 0 && st.cursor == s.history.head, st.cursor}
	if st.flying.complete {
		r.SystemVersionInfo = s.version
	}
	return r
}

// fill takes names until the response is as large as it may be.
func (s *Server) fill(r *response, st *stream) {
	size, taken := 0, map[string]bool{}
	take := func(name string) bool {
		if len(taken) == maxChunk || size >= maxChunkBytes {
			return false
		}
		if taken[name] {
			return true
		}
		taken[name] = true
		held, found := s.history.resources[name]
		size += 2*len(name) + len(held.content) + len(typeURL) + 2*len(held.version)
		if !found {
			r.RemovedResources = append(r.RemovedResources, name)
			return true
		}
		r.Resources = append(r.Resources, &discoveryv3.Resource{
			Name: name, Version: held.version.String(), Resource: &anypb.Any{TypeUrl: typeURL, Value: held.content},
		})
		return true
	}
	for len(st.todo) > 0 {
		if !take(st.todo[0]) {
			return
		}
		st.todo = st.todo[1:]
	}
	st.todo = nil // It can have been everything, and the stream lives long.
	for _, c := range s.history.since(st.cursor) {
		if !take(c.name) {
			return
		}
		st.cursor = c.position
	}
	st.cursor = s.history.head
}
