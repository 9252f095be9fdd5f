package operator

import (
	"bytes"
	"slices"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// told is all that the resources of a gateway are made of, but for what is the same as long as the process runs: to build them is
// dear where there are many gateways, and one has changed.
type told struct {
	gateway *policy.Gateway // of a Compiler, which makes another one where it says something else
	secrets [][]byte        // what those hold that it names, in its order
	roots   []byte
}

func newTold(g *policy.Gateway, s *envoy.Settings) told {
	t := told{gateway: g, roots: s.SystemRoots}
	for _, use := range g.Secrets() {
		t.secrets = append(t.secrets, s.Secrets(use.SecretValue))
	}
	return t
}

// same reports whether equal resources would come of both.
func (t told) same(o told) bool {
	return t.gateway == o.gateway && bytes.Equal(t.roots, o.roots) && slices.EqualFunc(t.secrets, o.secrets, bytes.Equal)
}
