// Package envoy decides what a fleet of Envoys is told, so that the Table holds there: its listeners, routes, clusters and
// secrets.
//
// It is a pure function of a policy.Gateway, of what the Secrets that it names hold, and of a few addresses. There is
// one file for each concept of Envoy. The reasons for what looks odd stand beside it; most are behaviours of Envoy 1.40 that
// its documentation does not tell.
package envoy

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/policy"
)

// ServiceCluster is the name of the cluster of the rate-limit service. It is part of the bootstrap, because it belongs to
// the installation and not to a gateway.
const ServiceCluster = "tierkeeper"

// Resources is everything that the Envoys of one gateway are told. Every message has passed its own validation.
type Resources struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Secrets   []*tlsv3.Secret // by name; the only place of this project where provider keys and private keys stand
}

// Settings is what an installation decides about a gateway.
type Settings struct {
	// BindAddress is the address that listeners bind to; empty means all of IPv4.
	BindAddress string
	// Port takes the place of the port of the gateway's only listener; 0 keeps what the gateway says.
	Port uint32
	// Upstream takes the place of the endpoints of every backend, without TLS and credentials, so that a gateway can be tried
	// without its providers.
	Upstream *policy.Endpoint
	// Secrets has the content of the Secrets that the gateway names; nil has none.
	Secrets SecretSource
	// SystemRoots is the certificates of the authorities that the machine trusts, in PEM.
	SystemRoots []byte
}

// Build says what the Envoys of a gateway are told. A listener whose certificates are not there is left out, and routes to a
// backend whose credential or authorities are not there answer 503: a Secret that is missing costs nothing else. An error
// names what Envoy would refuse; it is a mistake of this package or of Settings, because the API and policy.Compile keep such
// gateways out.
func Build(g *policy.Gateway, s Settings) (r *Resources, err error) {
	// An extension that does not validate panics where it is packed. It must cost its gateway and nothing else.
	defer func() {
		if p := recover(); p != nil {
			r, err = nil, fmt.Errorf("building gateway %s: %v", g.Name, p)
		}
	}()
	if s.Port != 0 && len(g.Listeners) != 1 {
		return nil, fmt.Errorf("gateway %s has %d listeners, and a port can be given for one only", g.Name, len(g.Listeners))
	}
	v := newVault(s)
	r = &Resources{}
	ready := map[string]*policy.Backend{}
	for _, b := range g.Backends {
		if s.Upstream != nil {
			b.Endpoints, b.TLS, b.Credential = []policy.Endpoint{*s.Upstream}, nil, nil
		}
		cluster, ok := backendCluster(g, &b, v)
		v.built(ok)
		if ok {
			r.Clusters = append(r.Clusters, cluster)
			ready[b.Name] = &b
		}
	}
	for _, p := range ports(g, s) {
		chains := filterChains(g, p, v)
		v.built(len(chains) > 0)
		if len(chains) == 0 {
			continue
		}
		r.Listeners = append(r.Listeners, listener(g, p, chains, s.BindAddress))
		if name := p.routesName(g); !slices.ContainsFunc(r.Routes, func(c *routev3.RouteConfiguration) bool { return c.GetName() == name }) {
			r.Routes = append(r.Routes, routes(g, name, p.domains(), ready))
		}
	}
	r.Secrets = v.secrets()
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("gateway %s: %w", g.Name, err)
	}
	return r, nil
}

func (r *Resources) validate() error {
	for _, m := range r.Messages() {
		if v, ok := m.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				return fmt.Errorf("validating %s: %w", m.ProtoReflect().Descriptor().Name(), err)
			}
		}
	}
	return nil
}

// Messages lists all of them.
func (r *Resources) Messages() []proto.Message {
	var out []proto.Message
	for _, l := range r.Listeners {
		out = append(out, l)
	}
	for _, c := range r.Routes {
		out = append(out, c)
	}
	for _, c := range r.Clusters {
		out = append(out, c)
	}
	for _, secret := range r.Secrets {
		out = append(out, secret)
	}
	return out
}

// packed wraps an extension's configuration. Its own validation runs here, because that of the message around it does not
// look inside.
func packed(m proto.Message) *anypb.Any {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			panic(fmt.Sprintf("building %s: %v", m.ProtoReflect().Descriptor().FullName(), err))
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // A message that was built here can be written.
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}

func extension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: packed(config)}
}

func address(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// SplitAddress reads "host:port".
func SplitAddress(s string) (policy.Endpoint, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return policy.Endpoint{}, fmt.Errorf("reading address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return policy.Endpoint{}, fmt.Errorf("reading port of %s: %w", s, err)
	}
	return policy.Endpoint{Address: host, Port: uint32(n)}, nil
}
