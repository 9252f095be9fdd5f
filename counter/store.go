// Package counter decides what it means to count: what a counter is, which window of time it counts in, and what a store
// of counters promises. It counts nothing itself; memory does so in this process, and countertest holds every store to
// the promises made here.
//
// Time is a parameter everywhere: no store reads a clock. For each counter time only moves forward. A counter that has
// counted at a later time than now goes on from there, so that two readings of a clock that overtake each other, or two
// clocks that differ a little, never make a full window empty again.
package counter

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

// ErrOut is the error of a store that cannot be reached where that refuses a request.
var ErrOut = errors.New("the counter store is out")

// ErrUnreadable is the error of a call that needs a counter of which the store holds what no store writes. It is no sign that others
// cannot be counted. Nothing is taken then; of a settlement the part of other subjects may be done.
var ErrUnreadable = errors.New("the store holds what it cannot read")

// ErrNotDone is the error of a settlement that the store has answered, and of which it has made nothing, but that slots may be free.
// It can be made again. Any other error leaves open what was done.
var ErrNotDone = errors.New("the store has not done it")

// MaxLimits is the most limits that one [Set] holds.
const MaxLimits = 32

// MaxCount is the most that a counter holds: up to here the numbers are exact in every language that a store may count in.
// A count that would be larger stays there. A Max, a hit and a charge that are larger count as MaxCount, but that a hit larger
// than MaxCount never fits.
const MaxCount = 1<<53 - 1

// Resolution is how exactly a store must take the times of slots and of failures, and the spans of rules: it may drop what is
// finer. Windows begin and end to the nanosecond.
const Resolution = time.Microsecond

// Remember is how long a store knows that a lease was settled: two heartbeats of a stream, because a heartbeat may
// arrive after the settlement that it was sent before.
const Remember = 20 * time.Second

// A LeaseID names one admitted request, which holds its slots by that name. It must be new for every Acquire.
type LeaseID [8]byte

// String returns the name in hexadecimal.
func (l LeaseID) String() string { return hex.EncodeToString(l[:]) }

// A Limit is a ceiling on one counter. Several limits with different ceilings may name one counter, as happens while a
// key changes its tier: the count is the same for all.
type Limit struct {
	Key    Key
	Window Window
	// Max is the ceiling in hits, or in slots when Window is InUse. 0 and below admit nothing.
	Max int64
}

// Fits reports whether hits more fit on top of used. A hit of 0 or below takes nothing and always fits, even where used
// is beyond the ceiling already.
func (l Limit) Fits(used, hits int64) bool {
	return hits <= 0 || hits <= l.Ceiling()-used
}

// Ceiling is Max within what a counter can hold.
func (l Limit) Ceiling() int64 { return min(max(l.Max, 0), MaxCount) }

// A Count is what one counter held after a call.
type Count struct {
	// Used is what was taken in the window: open reservations included, refunds deducted. For InUse it is the number
	// of slots that are held. It can exceed the limit, because what a settlement adds is never refused.
	Used int64
	// Reset is when the window ends, in UTC; zero for InUse. For a window that slides it is when all that is counted is gone
	// ([Window.Gone] of the newest sub-window that holds anything, or of the current one if none does). Of a limit that
	// refused it is the earliest time at which the same hits fit, if nothing else is taken; if they can never fit, as before.
	Reset time.Time
}

// A Store opens sets of counters and settles what was taken from them. All methods may be called from many goroutines.
// An error means that the store failed, never that a limit was reached; where ctx ended, it is that of ctx.
type Store interface {
	// Open resolves the counters of one identity once, so that Acquire need not look them up. It reads and changes no
	// count. The set remains valid however long it is held. Open panics when two limits name one key, when a window is
	// unknown, or when there are more than MaxLimits.
	Open(limits []Limit) Set

	// Settle ends a lease: it corrects each counter by the difference between what was used and what was charged, and
	// frees the slots. The difference goes to the window that the charge was taken from. When that window has ended, or
	// the counter has moved on to a later one, nothing is changed: a reservation dies with its window. Of a sliding window
	// it goes to the sub-window, and nothing is changed when that one is gone. When the counter
	// is not there any more, an extra charge creates it. No count falls below 0, and a charge beyond a limit is not
	// refused. Settle is not idempotent: a lease must be settled once.
	Settle(ctx context.Context, now time.Time, s Settlement) error

	// Renew makes a lease hold its slots of the InUse counters named by keys until expiry, unless they are held longer
	// already; expiry is reckoned as in Acquire. A slot that has expired, or that the store has never heard of, is taken again, even above the limit,
	// because the request is there whatever was counted. A lease that was settled within Remember gets nothing.
	Renew(ctx context.Context, now time.Time, lease LeaseID, keys []Key, expiry time.Time) error

	// Peek fills counts[i] with what the counter of limits[i] holds, and changes nothing. The counts need not be of one
	// instant. It panics when counts is shorter than limits.
	Peek(ctx context.Context, now time.Time, limits []Limit, counts []Count) error
}

// A Set is the counters of one identity. Its methods may be called from many goroutines.
//
// A store that is spread over machines may promise less for a set whose counters have several subjects: no limit is ever
// exceeded, and what is refused is not taken, but a call may be refused that would fit, because of another that is about to be
// refused, and a refusal may move the windows of its counters on to now.
type Set interface {
	// Acquire takes hits[i] of limit i for every i if all of them fit, and otherwise changes nothing. It is exact:
	// whatever runs at the same time, it takes if and only if everything fits, as if calls came one after the other. In
	// either case it fills counts[i]: after the take, or as the counters stand. The limits that refused are those whose
	// [Limit.Fits] is false for counts[i].Used and hits[i].
	//
	// A hit of 0 or below takes nothing and always fits. For InUse a hit is at most 1, and takes a slot that lease holds
	// until expiry, which must be after now; the slot is free from its expiry on. Where the counter's time is later than now
	// the lease holds it as long, reckoned from there: a clock that was set back must not make slots expire as they are
	// taken. Acquire panics when hits or counts is
	// shorter than the limits of the set.
	Acquire(ctx context.Context, now time.Time, lease LeaseID, expiry time.Time, hits []int64, counts []Count) (ok bool, err error)
}

// A Settlement says how a lease ended.
type Settlement struct {
	Lease LeaseID
	// Taken is the time that Acquire was called with. It names the windows, or sub-windows, that were charged.
	Taken   time.Time
	Charges []Charge
}

// A Charge is what one counter was charged by Acquire, and what was used in truth. Negative numbers count as 0. For
// InUse both are without meaning: the charge frees the slot.
type Charge struct {
	Key           Key
	Window        Window
	Charged, Used int64
}

// Excess is what a settlement adds to the counter; it is below 0 for a refund.
func (c Charge) Excess() int64 {
	return min(max(c.Used, 0), MaxCount) - min(max(c.Charged, 0), MaxCount)
}

// Matters reports whether a settlement of what was taken at taken changes anything at now: not if its counter is right already, or counts
// it no more.
func (c Charge) Matters(taken, now time.Time) bool {
	switch {
	case c.Window == InUse:
		return true
	case c.Excess() == 0:
		return false
	case c.Window.Slides():
		return c.Window.Sub(now)-c.Window.Sub(taken) <= SubWindows
	default:
		_, end := c.Window.Bounds(taken)
		return now.Before(end)
	}
}
