package server

import "slices"

// maxAwaited is for how many withdrawn gateways it is kept that their Envoys, which are away, must be told so.
const maxAwaited = 1000

// left forgets a gateway when the last of its streams has closed, unless there is still something to tell its Envoys. Clients say
// what they are themselves, so no name may stay for ever because one was connected by it. The caller holds publishing and mu.
func (s *Server) left(last *stream) {
	gateway := last.gateway()
	p, published := s.published[gateway]
	switch {
	case s.connected(gateway) || published && !p.withdrawn:
	case published && !last.upToDate(p):
		s.await(gateway)
	default:
		s.forget(gateway)
	}
}

// await keeps that a gateway is withdrawn. Of too many, those that have waited for longest are forgotten.
func (s *Server) await(gateway string) {
	if slices.Contains(s.awaited, gateway) {
		return
	}
	s.awaited = append(s.awaited, gateway)
	if len(s.awaited) <= maxAwaited {
		return
	}
	oldest := s.awaited[0]
	s.awaited = slices.Delete(s.awaited, 0, 1)
	if s.published[oldest].withdrawn && !s.connected(oldest) {
		s.forget(oldest)
	}
}

func (s *Server) connected(gateway string) bool {
	for _, st := range s.streams {
		if st.gateway() == gateway {
			return true
		}
	}
	return false
}

// forget must not run while somebody is connected as the gateway: the cache would forget what to tell it.
func (s *Server) forget(gateway string) {
	delete(s.published, gateway)
	s.awaited = slices.DeleteFunc(s.awaited, func(name string) bool { return name == gateway })
	s.cache.ClearSnapshot(gateway)
}
