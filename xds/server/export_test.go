package server

import "time"

// Knows says whether anything is kept of a gateway, by its node.cluster.
func (s *Server) Knows(gateway string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, published := s.published[gateway]
	_, err := s.cache.GetSnapshot(gateway)
	return published || err == nil || s.cache.GetStatusInfo(gateway) != nil
}

// MaxAwaited is how many withdrawn gateways are kept.
const MaxAwaited = maxAwaited

// RetryAfter changes when an Envoy is sent again what it rejects. It is for streams of later calls of Register.
func (s *Server) RetryAfter(d time.Duration) { s.retryAfter = d }
