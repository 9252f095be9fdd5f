package ratelimit

import (
	"sync"
	"time"
)

const (
	tellEvery = time.Minute // how often the same thing is told
	maxTold   = 1000        // things that are told apart
)

// sparing decides what is worth a line in the log: each thing once a minute, however often it happens. It is safe for
// concurrent use, and the zero value is ready.
type sparing[K comparable] struct {
	mu   sync.Mutex
	told map[K]time.Time
}

// tell reports whether it is time to tell of the thing.
func (s *sparing[K]) tell(thing K, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Who comes later may have looked at the clock earlier. One that is set back by more is no reason to be silent for as long.
	if last, known := s.told[thing]; known && now.Sub(last).Abs() < tellEvery {
		return false
	}
	if s.told == nil || len(s.told) >= maxTold {
		s.told = map[K]time.Time{}
	}
	s.told[thing] = now
	return true
}
