package counter

import (
	"crypto/sha256"
	"encoding/hex"
)

// A Key names one counter. It consists of digests, so that a store, which many people may read, holds no identity. One key
// always counts in the same [Window].
//
// The first part is that of the subject: whose counters they are, such as those of one holder of API keys. A store may keep
// the counters of one subject together, and then be exact for them at a lower price. The second is that of an entry of the
// subject, such as a model, and the third that of the counter. Each is the digest of all that stands before it as well, so two
// counters of different subjects are told apart by all 128 bits, however cleverly somebody chooses names. Those of one entry
// are told apart by 32: who makes two of them collide makes his own requests count twice.
type Key [16]byte

// The parts of a Key.
const (
	subjectSize = 8
	entrySize   = 4
)

// NewKey names a counter by the names of its subject, its entry, and itself. Each must hold the one before it.
func NewKey(subject, entry, counter string) (k Key) {
	s, e, c := sha256.Sum256([]byte(subject)), sha256.Sum256([]byte(entry)), sha256.Sum256([]byte(counter))
	copy(k[:], s[:subjectSize])
	copy(k[subjectSize:], e[:entrySize])
	copy(k[subjectSize+entrySize:], c[:])
	return k
}

// Subject is the part that all counters of the subject share.
func (k Key) Subject() [8]byte { return [subjectSize]byte(k[:]) }

// Entry is the part that all counters of the entry share, beside the subject.
func (k Key) Entry() [4]byte { return [entrySize]byte(k[subjectSize:]) }

// Counter is the part that tells apart the counters of one entry.
func (k Key) Counter() [4]byte { return [4]byte(k[subjectSize+entrySize:]) }

// String returns the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }
