// Package countertest holds every store of counters to the promises of package counter, by examples and by comparison
// with a model that is too simple to be wrong.
package countertest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

// Run tests the stores that open returns, which must be empty. No test waits, because no store may read a clock of its
// own. For one store time goes back by less than a minute, so that a store may forget what was long ago.
func Run(t *testing.T, open func(*testing.T) counter.Store) {
	t.Helper()
	run(t, open, together, promises, crossings)
	run(t, open, scattered, promises, crossings)
}

// RunSpread tests stores that are spread over machines, of which less is promised where a set has several subjects.
func RunSpread(t *testing.T, open func(*testing.T) counter.Store) {
	t.Helper()
	run(t, open, together, promises, crossings)
	run(t, open, scattered, promises)
}

// promises hold for every store.
var promises = map[string]func(*fixture){
	"AllOrNothing":                  allOrNothing,
	"HitsOfZeroTakeNothing":         hitsOfZeroTakeNothing,
	"MaxOfZeroAdmitsNothing":        maxOfZeroAdmitsNothing,
	"CountsNeverOverflow":           countsNeverOverflow,
	"AnEmptySetAdmits":              anEmptySetAdmits,
	"ASetHoldsMaxLimits":            aSetHoldsMaxLimits,
	"OpenPanicsForAWrongSet":        openPanicsForAWrongSet,
	"SetsShareACounter":             setsShareACounter,
	"PeekChangesNothing":            peekChangesNothing,
	"PeekTakesAnyNumber":            peekTakesAnyNumber,
	"WhatIsNamedTwiceIsOneCounter":  whatIsNamedTwiceIsOneCounter,
	"WindowsFollowTheCalendar":      windowsFollowTheCalendar,
	"WindowsOnlyMoveForward":        windowsOnlyMoveForward,
	"SettleCorrectsTheWindow":       settleCorrectsTheWindow,
	"SettleSparesALaterWindow":      settleSparesALaterWindow,
	"SettleOfALostCounter":          settleOfALostCounter,
	"SlidingWindowsHaveNoEdge":      slidingWindowsHaveNoEdge,
	"SlidingWindowsOnlyMoveForward": slidingWindowsOnlyMoveForward,
	"SlidingWindowsSayWhenHitsFit":  slidingWindowsSayWhenHitsFit,
	"SettleCorrectsTheSubWindow":    settleCorrectsTheSubWindow,
	"SettleSparesWhatIsNotCounted":  settleSparesWhatIsNotCounted,
	"SettleOfALostSlidingWindow":    settleOfALostSlidingWindow,
	"SlidingCountsNeverOverflow":    slidingCountsNeverOverflow,
	"SlotsAreFreedBySettle":         slotsAreFreedBySettle,
	"SlotsAreFreedByExpiry":         slotsAreFreedByExpiry,
	"ManySlotsAreFreedOneByOne":     manySlotsAreFreedOneByOne,
	"SlotsOutlastAClockSetBack":     slotsOutlastAClockThatIsSetBack,
	"SlotsAreTakenWithTheRest":      slotsAreTakenWithTheRest,
	"RenewExtends":                  renewExtends,
	"RenewTakesAgainAboveMax":       renewTakesAgainAboveMax,
	"RenewRefusesWhatWasSettled":    renewRefusesWhatWasSettled,
	"ASettledLeaseIsForgottenLater": aSettledLeaseIsForgottenLater,
	"CrowdIsNeverOver":              crowdIsNeverOver,
	"CrowdLeavesWhatWasUsed":        crowdLeavesWhatWasUsed,
}

// crossings hold wherever the counters of a set are in one place.
var crossings = map[string]func(*fixture){
	"ARefusalMovesNoWindow":        aRefusalMovesNoWindow,
	"ARefusalMovesNoSlidingWindow": aRefusalMovesNoSlidingWindow,
	"AgreesWithTheModel":           agreesWithTheModel,
	"CrowdIsAdmittedOneByOne":      crowdIsAdmittedOneByOne,
	"CrowdFillsALimit":             crowdFillsALimit,
}

func run(t *testing.T, open func(*testing.T) counter.Store, p placement, tests ...map[string]func(*fixture)) {
	t.Helper()
	for _, all := range tests {
		for name, test := range all {
			t.Run(p.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				test(&fixture{T: t, open: open, store: open(t), placement: p, subject: subjects.Add(1)})
			})
		}
	}
}

// A placement says which of the counters of a test have which subject.
type placement bool

const (
	together  placement = false // all one
	scattered placement = true  // three have one
)

// String is a part of the names of tests.
func (p placement) String() string {
	if p == scattered {
		return "Scattered"
	}
	return "Together"
}

// noon is when most examples begin: in the middle of each window.
var noon = time.Date(2024, time.February, 14, 12, 30, 30, 500_000_000, time.UTC)

// leases are numbered through the whole process, so that none is used twice.
var leases atomic.Uint64

func newLease() counter.LeaseID {
	var l counter.LeaseID
	binary.BigEndian.PutUint64(l[:], leases.Add(1))
	return l
}

// subjects and counters are numbered as well.
var subjects, counters atomic.Uint64

// limit returns a limit on a counter that nobody else uses. A subject has its counters in two entries.
func (f *fixture) limit(window counter.Window, most int64) counter.Limit {
	n := counters.Add(1)
	subject := fmt.Sprint("subject ", f.subject)
	if f.placement == scattered {
		subject = fmt.Sprint("one of several ", n/3)
	}
	entry := fmt.Sprint(subject, " ", n%2)
	return counter.Limit{Key: counter.NewKey(subject, entry, fmt.Sprint(entry, " ", n)), Window: window, Max: most}
}

// A fixture is one test of one store. Its methods fail the test when the store does.
type fixture struct {
	*testing.T
	open      func(*testing.T) counter.Store
	store     counter.Store
	placement placement
	subject   uint64 // of all counters, where they have one
	days      int    // that tests of sliding windows have used up
}

// acquire takes hits at now, with slots for half a minute.
func (f *fixture) acquire(set counter.Set, now time.Time, hits ...int64) (counter.LeaseID, bool, []counter.Count) {
	f.Helper()
	lease, counts := newLease(), make([]counter.Count, len(hits))
	ok, err := set.Acquire(f.Context(), now, lease, now.Add(30*time.Second), hits, counts)
	if err != nil {
		f.Fatalf("Acquire: %v", err)
	}
	return lease, ok, counts
}

// take is an acquire that must be admitted.
func (f *fixture) take(set counter.Set, now time.Time, hits ...int64) counter.LeaseID {
	f.Helper()
	lease, ok, counts := f.acquire(set, now, hits...)
	if !ok {
		f.Fatalf("at %v %v hits are refused, want them taken; counts are %v", now, hits, counts)
	}
	return lease
}

// refuse is an acquire that must not be admitted.
func (f *fixture) refuse(set counter.Set, now time.Time, hits ...int64) {
	f.Helper()
	if _, ok, counts := f.acquire(set, now, hits...); ok {
		f.Fatalf("at %v %v hits are taken, want them refused; counts are %v", now, hits, counts)
	}
}

func (f *fixture) settle(now time.Time, lease counter.LeaseID, taken time.Time, charges ...counter.Charge) {
	f.Helper()
	err := f.store.Settle(f.Context(), now, counter.Settlement{Lease: lease, Taken: taken, Charges: charges})
	if err != nil {
		f.Fatalf("Settle: %v", err)
	}
}

func (f *fixture) renew(now time.Time, lease counter.LeaseID, expiry time.Time, l counter.Limit) {
	f.Helper()
	if err := f.store.Renew(f.Context(), now, lease, []counter.Key{l.Key}, expiry); err != nil {
		f.Fatalf("Renew: %v", err)
	}
}

func (f *fixture) peek(now time.Time, limits ...counter.Limit) []counter.Count {
	f.Helper()
	counts := make([]counter.Count, len(limits))
	if err := f.store.Peek(f.Context(), now, limits, counts); err != nil {
		f.Fatalf("Peek: %v", err)
	}
	return counts
}

// wantUsed checks what the counters hold.
func (f *fixture) wantUsed(now time.Time, limits []counter.Limit, want ...int64) {
	f.Helper()
	if diff := cmp.Diff(want, used(f.peek(now, limits...))); diff != "" {
		f.Fatalf("counters at %v (-want +got):\n%s", now, diff)
	}
}

func used(counts []counter.Count) []int64 {
	n := make([]int64, len(counts))
	for i, c := range counts {
		n[i] = c.Used
	}
	return n
}
