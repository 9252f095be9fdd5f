package redis

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
)

var prefixes atomic.Int64

// Fresh is an empty store on the same connections.
func (s *Store) Fresh() *Store {
	fresh := &Store{client: s.client, ctx: s.ctx, script: s.script, spread: s.spread, log: s.log, prefix: fmt.Sprintf("%s-%d-", s.prefix, prefixes.Add(1))}
	fresh.pipeline.Store(new(pipeline))
	return fresh
}

// fewLeases keeps more than one lease in a set.
var fewLeases = newScript(strings.Replace(countersSource, "FEW, MANY = 64,", "FEW, MANY = 1,", 1))

// FreshWithFewLeases is like Fresh, and keeps leases in sets where Fresh would have them in values.
func (s *Store) FreshWithFewLeases() *Store {
	fresh := s.Fresh()
	fresh.script = fewLeases
	return fresh
}

var slowToDecide = newScript(strings.Replace(countersSource, "DOUBT = 100000", "DOUBT = 60000000", 1))

// FreshAndSlow is like Fresh, on a cluster in which a take may be given back for a minute.
func (s *Store) FreshAndSlow() *Store {
	fresh := s.Fresh()
	fresh.script = slowToDecide
	return fresh
}

// Announce is what Run does every now and then.
func (r *Replicas) Announce(ctx context.Context) error { return r.announce(ctx) }
