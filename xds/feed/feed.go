// Package feed decides how a policy table gets from the operator to the rate-limit service: which of its parts a service is
// told, when what it was told is put in force, and what it does with what it cannot read.
//
// It speaks delta xDS over a service of its own, so that a change of one quota is one small message, however many there are;
// see feedv1 for what differs from xDS.
package feed

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
)

const (
	typeURL    = "type.googleapis.com/tierkeeper.feed.v1.Policy"
	service    = "tierkeeper.feed.v1.PolicyDiscoveryService"
	method     = "DeltaPolicies"
	everything = "*"

	maxChunk      = 2000      // resources in one message
	maxChunkBytes = 512 << 10 // about; one resource may be larger
	maxMessage    = 16 << 20
	maxGreeting   = 1 << 20 // bytes of initial versions in one message, of the 4 MB that a server takes by itself
	maxRefusals   = 5000    // in one message
	maxWords      = 300     // bytes of one refusal
)

type (
	request        = discoveryv3.DeltaDiscoveryRequest
	response       = discoveryv3.DeltaDiscoveryResponse
	serverStream   = grpc.BidiStreamingServer[request, response]
	clientStream   = grpc.BidiStreamingClient[request, response]
	grpcServerSide = grpc.GenericServerStream[request, response]
	grpcClientSide = grpc.GenericClientStream[request, response]
)

// A version is a hash of a resource, so that all servers call equal ones by the same name. The zero version is that of none.
type version [8]byte

func versionOf(content []byte) version {
	sum := sha256.Sum256(content)
	return version(sum[:len(version{})])
}

// String is what the wire says; empty for the zero version.
func (v version) String() string {
	if v == (version{}) {
		return ""
	}
	return hex.EncodeToString(v[:])
}

// parseVersion reads what String writes. Anything else is none, so that the resource is told anew.
func parseVersion(s string) version {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(version{}) {
		return version{}
	}
	return version(b)
}
