package countertest

import (
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

func free(l counter.Limit) counter.Charge { return counter.Charge{Key: l.Key, Window: counter.InUse} }

func slotsAreFreedBySettle(f *fixture) {
	l := f.limit(counter.InUse, 2)
	set := f.store.Open([]counter.Limit{l})
	first := f.take(set, noon, 1)
	f.take(set, noon, 1)
	f.refuse(set, noon, 1)
	f.wantUsed(noon, []counter.Limit{l}, 2)

	f.settle(noon, first, noon, free(l))
	f.wantUsed(noon, []counter.Limit{l}, 1)
	f.take(set, noon, 1)
	f.wantUsed(noon, []counter.Limit{l}, 2)
	f.settle(noon, newLease(), noon, free(l)) // a lease that holds no slot frees none
	f.refuse(set, noon, 1)
}

func slotsAreFreedByExpiry(f *fixture) {
	l := f.limit(counter.InUse, 2)
	set := f.store.Open([]counter.Limit{l})
	f.take(set, noon, 1)
	f.take(set, noon.Add(time.Second), 1)
	expiry := noon.Add(30 * time.Second)
	f.refuse(set, expiry.Add(-1), 1)
	f.wantUsed(expiry.Add(-1), []counter.Limit{l}, 2)
	f.wantUsed(expiry, []counter.Limit{l}, 1)
	f.take(set, expiry, 1)
	f.refuse(set, expiry, 1)
	f.wantUsed(expiry.Add(50*time.Second), []counter.Limit{l}, 0)

	// The counter has moved on: a clock that is behind brings no slot back, and none of those that are held is lost.
	f.wantUsed(expiry.Add(-time.Second), []counter.Limit{l}, 2)
	f.refuse(set, expiry.Add(-time.Second), 1)
}

// manySlotsAreFreedOneByOne, by settlements and by expiry: a store may keep many in another way than a few.
func manySlotsAreFreedOneByOne(f *fixture) {
	const many = 300
	l := f.limit(counter.InUse, many)
	set := f.store.Open([]counter.Limit{l})
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * 10 * time.Millisecond) }
	held := make([]counter.LeaseID, many)
	for i := range held {
		held[i] = f.take(set, at(i), 1)
	}
	f.refuse(set, at(many), 1)
	f.renew(at(many), held[0], at(many).Add(30*time.Second), l)
	for i := 1; i < many; i += 2 {
		f.settle(at(many), held[i], at(i), free(l))
	}
	f.renew(at(many), held[1], at(many).Add(30*time.Second), l) // which is settled
	f.wantUsed(at(many), []counter.Limit{l}, many/2)
	for i := 2; i < many; i += 2 {
		f.wantUsed(at(i).Add(30*time.Second-1), []counter.Limit{l}, int64(many/2-i/2+1))
		f.wantUsed(at(i).Add(30*time.Second), []counter.Limit{l}, int64(many/2-i/2))
	}
	f.wantUsed(at(many).Add(30*time.Second), []counter.Limit{l}, 0)
	f.take(set, at(many).Add(30*time.Second), 1)
}

// A lease lasts as long on a counter whose time is later, or a clock that was set back would let everything through.
func slotsOutlastAClockThatIsSetBack(f *fixture) {
	l := f.limit(counter.InUse, 1)
	set := f.store.Open([]counter.Limit{l})
	ahead := noon.Add(time.Hour)
	f.settle(ahead, f.take(set, ahead, 1), ahead, free(l))
	lease := f.take(set, noon, 1)
	f.refuse(set, noon, 1)
	f.renew(noon.Add(10*time.Second), lease, noon.Add(50*time.Second), l)
	f.refuse(set, ahead.Add(40*time.Second-1), 1)
	f.take(set, ahead.Add(40*time.Second), 1)
}

func slotsAreTakenWithTheRest(f *fixture) {
	limits := []counter.Limit{f.limit(counter.InUse, 1), f.limit(counter.Minute, 2), f.limit(counter.InUse, 5)}
	set := f.store.Open(limits)
	lease := f.take(set, noon, 1, 1, 1)
	f.refuse(set, noon, 1, 1, 1)
	f.wantUsed(noon, limits, 1, 1, 1)
	f.settle(noon, lease, noon, free(limits[0]), counter.Charge{Key: limits[1].Key, Window: counter.Minute, Charged: 1, Used: 2}, free(limits[2]))
	f.refuse(set, noon, 1, 1, 1)
	f.wantUsed(noon, limits, 0, 2, 0)
}

func renewExtends(f *fixture) {
	l := f.limit(counter.InUse, 1)
	set := f.store.Open([]counter.Limit{l})
	lease := f.take(set, noon, 1)
	expiry := noon.Add(45 * time.Second)
	f.renew(noon.Add(10*time.Second), lease, expiry, l)
	f.renew(noon.Add(11*time.Second), lease, noon.Add(20*time.Second), l) // shortens nothing
	f.refuse(set, expiry.Add(-1), 1)
	f.wantUsed(expiry.Add(-1), []counter.Limit{l}, 1)
	f.take(set, expiry, 1)
}

func renewTakesAgainAboveMax(f *fixture) {
	l := f.limit(counter.InUse, 1)
	set := f.store.Open([]counter.Limit{l})
	late := f.take(set, noon, 1)
	now := noon.Add(31 * time.Second)
	current := f.take(set, now, 1)

	f.renew(now, late, now.Add(30*time.Second), l)
	f.wantUsed(now, []counter.Limit{l}, 2)
	unheardOf := newLease() // of a store that was restarted since
	f.renew(now, unheardOf, now.Add(30*time.Second), l)
	f.wantUsed(now, []counter.Limit{l}, 3)

	f.settle(now, current, now, free(l))
	f.settle(now, late, noon, free(l))
	f.refuse(set, now, 1)
	f.settle(now, unheardOf, noon, free(l))
	f.take(set, now, 1)
}

func renewRefusesWhatWasSettled(f *fixture) {
	l := f.limit(counter.InUse, 1)
	set := f.store.Open([]counter.Limit{l})
	held := f.take(set, noon, 1)
	f.settle(noon.Add(time.Second), held, noon, free(l))
	expired := f.take(set, noon.Add(time.Second), 1)
	f.settle(noon.Add(time.Minute), expired, noon, free(l))
	unheardOf := newLease()
	f.settle(noon.Add(time.Minute), unheardOf, noon, free(l))

	for _, lease := range []counter.LeaseID{expired, unheardOf} {
		for _, late := range []time.Duration{-time.Second, 0, time.Second, counter.Remember - 1} {
			now := noon.Add(time.Minute + late)
			f.renew(now, lease, now.Add(30*time.Second), l)
			f.wantUsed(now, []counter.Limit{l}, 0)
		}
	}
}

// aSettledLeaseIsForgottenLater although many others were settled meanwhile, and not a moment too early.
func aSettledLeaseIsForgottenLater(f *fixture) {
	l := f.limit(counter.InUse, 1)
	const every = time.Second
	settled := map[time.Duration]counter.LeaseID{}
	for since := time.Duration(0); since < 90*time.Second; since += every {
		now := noon.Add(since)
		settled[since] = newLease()
		f.settle(now, settled[since], now, free(l))
		f.renew(now, settled[max(0, since-counter.Remember+every)], now.Add(time.Second), l)
		f.wantUsed(now, []counter.Limit{l}, 0)
	}
	now := noon.Add(90 * time.Second)
	f.renew(now, settled[90*time.Second-counter.Remember], now.Add(time.Second), l)
	f.wantUsed(now, []counter.Limit{l}, 1)

	f.settle(now.Add(2*time.Second), newLease(), now, free(l)) // the counter has moved on, the next clock is behind
	f.renew(now.Add(time.Second), settled[92*time.Second-counter.Remember], now.Add(3*time.Second), l)
	f.wantUsed(now.Add(2*time.Second), []counter.Limit{l}, 1)
}
