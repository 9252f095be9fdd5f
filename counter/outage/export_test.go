package outage

import "time"

// Silence is silence for tests.
type Silence struct{ silence }

// NewSilence looks every so often.
func NewSilence(every time.Duration) *Silence { return &Silence{silence{every: every}} }

// Lasts is lasts.
func (s *Silence) Lasts(now time.Time, waits, heard bool) bool {
	return s.lasts(now, waits, heard)
}

// Seen is how many counters are known.
func (s *Store) Seen() int { return s.seen.Size() }

// Leases is how many are kept of an outage.
func (s *Store) Leases() int { return len(s.state.Load().out.leases) }
