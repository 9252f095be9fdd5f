package redis

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"
)

var prefixes atomic.Int64

// Fresh is an empty store on the same connections.
func (s *Store) Fresh() *Store {
	fresh := *s
	fresh.prefix = fmt.Sprintf("%s-%d-", s.prefix, prefixes.Add(1))
	return &fresh
}

// fewLeases keeps more than one lease in a set.
var fewLeases = rueidis.NewLuaScript(strings.Replace(countersSource, "FEW, MANY = 64,", "FEW, MANY = 1,", 1))

// FreshWithFewLeases is like Fresh, and keeps leases in sets where Fresh would have them in values.
func (s *Store) FreshWithFewLeases() *Store {
	fresh := s.Fresh()
	fresh.script = fewLeases
	return fresh
}
