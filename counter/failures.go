package counter

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"
)

// A Subject names one whose failures are counted. What its bytes mean is for callers to say, and a store must not care.
type Subject [25]byte

// String returns the name in hexadecimal.
func (s Subject) String() string { return hex.EncodeToString(s[:]) }

// ParseSubject reads what String writes.
func ParseSubject(text string) (s Subject, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(s) {
		err = fmt.Errorf("it has %d bytes, want %d", len(b), len(s))
	}
	if err != nil {
		return s, fmt.Errorf("reading the name of a subject: %w", err)
	}
	return Subject(b), nil
}

// A Rule says how many failures are too many. All three are positive.
type Rule struct {
	Max    int           // failures within any Window that are put up with; one more blocks
	Window time.Duration // with both ends
	Block  time.Duration
}

// A Block is in force from Since up to, and not including, Until.
type Block struct {
	Subject      Subject
	Since, Until time.Time
	Failures     int // within the window that led to it
}

// An Outcome says what became of a failure.
type Outcome uint8

// The outcomes.
const (
	Ignored Outcome = iota // a block is in force: what is answered during it does not count
	Counted
	Blocked // it was one too many, and a block begins
)

// Failures counts the failures of subjects and keeps the blocks that follow. It is exact: a subject is blocked if and only if
// more than Max of its failures lie within the Window of the rule that the last of them came with, those before its last block
// not counted. A rule with a smaller Window than that of the failure before may make a store forget what it does not reach.
// For each subject time only moves forward: a failure at an earlier time than its last counts as of that time. A store may
// forget the subjects whose failures are the longest ago when it would grow too large. Where several processes share a store,
// Any and BlockOf may learn a little later of the blocks that another has made or lifted.
//
// All methods may be called from many goroutines. An error means that the store failed.
type Failures interface {
	// Any reports whether any subject may be blocked. It is asked for each request, and cheap; it errs only in saying yes.
	Any(now time.Time) bool

	// BlockOf returns the block of the subject that is in force, and false if there is none.
	BlockOf(ctx context.Context, now time.Time, s Subject) (Block, bool, error)

	// Fail takes in a failure.
	Fail(ctx context.Context, now time.Time, s Subject, r Rule) (Outcome, error)

	// Blocks lists the blocks in force, in no order.
	Blocks(ctx context.Context, now time.Time) ([]Block, error)

	// Lift ends a block, and reports false if none is in force. Counting starts anew.
	Lift(ctx context.Context, now time.Time, s Subject) (bool, error)
}
