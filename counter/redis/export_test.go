package redis

import (
	"fmt"
	"sync/atomic"
)

var prefixes atomic.Int64

// Fresh is an empty store on the same connections.
func (s *Store) Fresh() *Store {
	fresh := *s
	fresh.prefix = fmt.Sprintf("%s-%d-", s.prefix, prefixes.Add(1))
	return &fresh
}
