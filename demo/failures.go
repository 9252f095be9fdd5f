package demo

import "sync"

// mostFailIDs bounds the memory of failures.
const mostFailIDs = 1000

// failures counts the requests of each x-demo-fail-id. When there are too many of them it begins anew.
type failures struct {
	mu   sync.Mutex
	seen map[string]int
}

// among says whether a request that comes now is one of the first n with that identifier.
func (f *failures) among(id string, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil || len(f.seen) >= mostFailIDs && f.seen[id] == 0 {
		f.seen = map[string]int{}
	}
	if f.seen[id] >= n {
		return false
	}
	f.seen[id]++
	return true
}
