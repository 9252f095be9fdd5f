package server

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/policy"
)

// maxName is how many bytes node.cluster and node.id may have. A namespace and a name of Kubernetes have no more than 317 together.
const maxName = 512

// An Envoy is what one connected Envoy makes of what is published for its gateway.
type Envoy struct {
	Node string // its node.id; nothing keeps two Envoys from having the same
	// Mark is the largest that was published when this Envoy had accepted everything of it, since it connected; 0: none was.
	Mark uint64
	// Rejected is what it holds against what is published now, as in "Listener: edge/main/http: words", at most 1 KiB; empty:
	// nothing. Several are joined by "; ". The words are Envoy's own, but those about a Secret, which could quote it.
	Rejected string
}

// Envoys lists those that are connected as the gateway, published or not, by Node.
func (s *Server) Envoys(gateway policy.Name) []Envoy {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Envoy
	for _, st := range s.streams {
		if st.gateway() == gateway.String() {
			all = append(all, st.seen)
		}
	}
	slices.SortFunc(all, func(a, b Envoy) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.Mark, b.Mark), strings.Compare(a.Rejected, b.Rejected))
	})
	return all
}

// rejects says whether an Envoy that calls itself by the node rejects anything of what is published.
func (s *Server) rejects(node *corev3.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if st.gateway() == node.GetCluster() && st.node.GetId() == node.GetId() && st.seen.Rejected != "" {
			return true
		}
	}
	return false
}

// Gateways lists what Envoys are connected as, each once and sorted: what their node.cluster says, be it a gateway or not.
func (s *Server) Gateways() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	connected := map[string]bool{}
	for _, st := range s.streams {
		connected[st.gateway()] = true
	}
	return slices.Sorted(maps.Keys(connected))
}

// A stream is what one Envoy has. Delta xDS tells it by differences only, and sends a resource once, whether or not Envoy
// accepts it.
type stream struct {
	node *corev3.Node // Envoy says who it is in its first message only
	has  map[string]map[string]held
	seen Envoy // what Envoys returns
}

// held is a resource as Envoy was told it last: it is accepted unless it has a nonce or words.
type held struct {
	version   string // empty: it was removed
	nonce     string // of the response that is not answered yet
	words     string // why it was rejected
	swallowed bool   // rejected together with others, and perhaps for their sake only
}

func (st *stream) gateway() string { return st.node.GetCluster() }

// asked takes a request: what Envoy has when it connects, its answer to a response, what it is interested in no more.
func (s *Server) asked(id int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	s.mu.Lock()
	st, known := s.streams[id]
	if !known {
		st = &stream{node: req.GetNode(), has: map[string]map[string]held{}}
	}
	if n := req.GetNode(); st.node == nil || n != nil && n.GetCluster() != st.gateway() {
		s.mu.Unlock()
		return status.Error(codes.InvalidArgument, "node.cluster must be given in the first message of a stream, and stay: it says which gateway is served")
	}
	if max(len(st.node.GetCluster()), len(st.node.GetId())) > maxName {
		s.mu.Unlock()
		return status.Errorf(codes.InvalidArgument, "node.cluster or node.id is longer than %d bytes; node.cluster is the gateway's NAMESPACE/NAME", maxName)
	}
	s.streams[id] = st
	again := st.take(req)
	news := st.look(s.published[st.gateway()]) || !known
	s.mu.Unlock()

	if req.GetResponseNonce() != "" {
		s.report(Report{Gateway: st.gateway(), Node: st.node.GetId(), Kind: kinds[req.GetTypeUrl()], Err: rejection(req)})
	}
	s.tell(st, news)
	if again {
		return status.Error(codes.Unavailable, "connect again: what was rejected together with others is sent anew")
	}
	return nil
}

// sent takes a response that is about to be sent.
func (s *Server) sent(id int64, r *discoveryv3.DeltaDiscoveryResponse) {
	s.mu.Lock()
	st := s.streams[id]
	if all := st.has[r.GetTypeUrl()]; all != nil {
		for _, resource := range r.GetResources() {
			all[resource.GetName()] = held{version: resource.GetVersion(), nonce: r.GetNonce()}
		}
		for _, name := range r.GetRemovedResources() {
			all[name] = held{nonce: r.GetNonce()}
		}
	}
	news := st.look(s.published[st.gateway()])
	s.mu.Unlock()
	s.tell(st, news)
}

func (s *Server) closed(id int64) {
	s.publishing.Lock()
	s.mu.Lock()
	st, known := s.streams[id]
	delete(s.streams, id)
	if known {
		s.left(st)
	}
	s.mu.Unlock()
	s.publishing.Unlock()
	if known {
		s.tell(st, true)
	}
}

// expect holds a gateway's Envoys to p from now on. It says whether what Envoys returns has changed, and whether they were
// told the same content before.
func (s *Server) expect(gateway string, p publication) (news, told bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.published[gateway]
	if told = before.version == p.version; told {
		p.mark = max(p.mark, before.mark)
	}
	s.published[gateway] = p
	for _, st := range s.streams {
		if st.gateway() == gateway {
			news = st.look(p) || news
		}
	}
	if p.withdrawn && !s.connected(gateway) {
		s.await(gateway)
	}
	return news, told
}

// advance lists the streams of which Envoys returns something else now.
func (s *Server) advance(gateways []policy.Name, mark uint64) (news []*stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range gateways {
		gateway := name.String()
		if p, published := s.published[gateway]; published {
			p.mark = max(p.mark, mark)
			s.published[gateway] = p
		}
	}
	for _, st := range s.streams {
		if st.look(s.published[st.gateway()]) {
			news = append(news, st)
		}
	}
	return news
}

func (s *Server) tell(st *stream, news bool) {
	if !news {
		return
	}
	name := policy.Name{}
	if namespace, n, ok := strings.Cut(st.gateway(), "/"); ok {
		name = policy.Name{Namespace: namespace, Name: n}
	}
	s.changed(name)
}

// take says whether the stream must end so that what was swallowed is sent again.
func (st *stream) take(req *discoveryv3.DeltaDiscoveryRequest) (again bool) {
	kind := req.GetTypeUrl()
	if kinds[kind] == "" {
		return false
	}
	all, known := st.has[kind]
	if !known {
		all = map[string]held{}
		for name, version := range req.GetInitialResourceVersions() {
			all[name] = held{version: version}
		}
		st.has[kind] = all
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if known {
			delete(all, name)
		}
	}
	if nonce := req.GetResponseNonce(); nonce != "" {
		again = answered(all, nonce, req) && rejection(req) == ""
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		delete(all, name)
	}
	return again
}

// carried are the names in the response with the nonce that no later response has told anything of.
func carried(all map[string]held, nonce string) []string {
	var names []string
	for name, h := range all {
		if h.nonce == nonce {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// answered settles what a response carried. It says whether anything is swallowed: Envoy does without it, though nothing may
// be wrong with it, and is sent it no more on this stream.
func answered(all map[string]held, nonce string, req *discoveryv3.DeltaDiscoveryRequest) (swallowed bool) {
	names := carried(all, nonce)
	rejected, named := rejections(req, names)
	for _, name := range names {
		h := held{version: all[name].version, words: rejected[name]}
		h.swallowed = h.words != "" && !named && len(names) > 1
		all[name] = h
		if h.version == "" && h.words == "" {
			delete(all, name)
		}
	}
	for _, h := range all {
		swallowed = swallowed || h.swallowed
	}
	return swallowed
}

// look renews what Envoys returns, and says whether that is something new.
func (st *stream) look(p publication) (news bool) {
	now := Envoy{Node: st.node.GetId(), Mark: st.seen.Mark, Rejected: st.rejected(p)}
	if st.upToDate(p) {
		now.Mark = max(now.Mark, p.mark)
	}
	news = now != st.seen
	st.seen = now
	return news
}

// upToDate says whether Envoy has accepted everything that is published, and has nothing beside it. Routes and secrets that
// it has beside it are not in use.
func (st *stream) upToDate(p publication) bool {
	for kind, versions := range p.versions {
		all := st.has[kind]
		for name, version := range versions {
			if all[name] != (held{version: version}) {
				return false
			}
		}
		if (kind == resourcev3.ListenerType || kind == resourcev3.ClusterType) && (all == nil || len(all) > len(versions)) {
			return false
		}
	}
	return p.versions != nil
}

// rejected words what Envoy holds against p. What it held against what was published before does not count any more.
func (st *stream) rejected(p publication) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(st.has)) {
		for _, name := range slices.Sorted(maps.Keys(st.has[kind])) {
			h := st.has[kind][name]
			if h.words != "" && h.version == p.versions[kind][name] {
				all = append(all, kinds[kind]+": "+h.words)
			}
		}
	}
	return bounded(strings.Join(slices.Compact(all), "; "))
}
