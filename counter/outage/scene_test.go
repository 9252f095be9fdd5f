package outage_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/counter/outage"
)

// now is the time of the bubble that a test runs in.
func now() time.Time { return time.Now() } //nolint:forbidigo // See above.

func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // In a bubble, where it takes no time.

// How a store is out.
type trouble int32

const (
	none    trouble = iota
	silent          // it answers nothing, and does nothing
	failing         // it answers with an error, and does nothing
	mute            // it answers with an error, and takes what it is asked for
)

var errFails = errors.New("OOM command not allowed")

// A troubled store is in memory, and out when it is told to be. Replicas share it.
type troubled struct {
	*memory.Store

	trouble  atomic.Int32
	acquires func(ctx context.Context, limits []counter.Limit, hits []int64) error // before anything is taken; nil: goes well
	settles  func(counter.Settlement) error                                        // before anything is settled; nil: goes well
}

// sound is a store that answers, and is empty.
func sound() *troubled { return &troubled{Store: memory.New()} }

func (s *troubled) is(t trouble) { s.trouble.Store(int32(t)) }

func (s *troubled) has(t trouble) bool { return trouble(s.trouble.Load()) == t }

// recovers has the store answer again, and waits until replicas ask it.
func (s *troubled) recovers(replicas ...*replica) {
	s.is(none)
	for _, r := range replicas {
		r.back()
	}
}

// Probe implements outage.Shared.
func (s *troubled) Probe(ctx context.Context) error {
	switch trouble(s.trouble.Load()) {
	case silent:
		<-ctx.Done()
		return ctx.Err()
	case failing, mute:
		return errFails
	default:
		return nil
	}
}

// Life implements outage.Shared. It forgets nothing.
func (s *troubled) Life(ctx context.Context) (string, error) { return "one", s.Probe(ctx) }

// Restore implements outage.Shared.
func (s *troubled) Restore(context.Context, time.Time, []counter.Limit, []counter.Count) error {
	return errors.New("nothing was forgotten")
}

type troubledSet struct {
	counter.Set

	of     *troubled
	limits []counter.Limit
}

func (s *troubled) Open(limits []counter.Limit) counter.Set {
	return &troubledSet{s.Store.Open(limits), s, limits}
}

func (s *troubledSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	fails := s.of.Probe(ctx)
	if fails == nil && s.of.acquires != nil {
		fails = s.of.acquires(ctx, s.limits, hits)
	}
	if fails != nil && !s.of.has(mute) {
		return false, fails
	}
	ok, err := s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
	return ok, errors.Join(fails, err)
}

// Settle implements counter.Store. As with Redis, nothing is asked for what changes nothing.
func (s *troubled) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	if !slices.ContainsFunc(settlement.Charges, func(c counter.Charge) bool { return c.Matters(settlement.Taken, now) }) {
		return nil
	}
	err := s.Probe(ctx)
	if err == nil && s.settles != nil {
		err = s.settles(settlement)
	}
	if err != nil {
		return err
	}
	return s.Store.Settle(ctx, now, settlement)
}

func (s *troubled) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	if err := s.Probe(ctx); err != nil {
		return err
	}
	return s.Store.Renew(ctx, now, lease, keys, expiry)
}

func (s *troubled) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	if err := s.Probe(ctx); err != nil {
		return err
	}
	return s.Store.Peek(ctx, now, limits, counts)
}

// A replica is one process of several that share a store.
type replica struct {
	*outage.Store

	stop context.CancelFunc
}

// start starts a replica, which ends with the test.
func start(t testing.TB, shared outage.Shared, replicas int) *replica {
	t.Helper()
	return startWith(t, shared, outage.Options{Replicas: func() int { return replicas }, Clock: now})
}

// startOne starts one of so many replicas, and its store.
func startOne(t testing.TB, of int) (*troubled, *replica) {
	t.Helper()
	shared := sound()
	return shared, start(t, shared, of)
}

// startAll starts so many replicas, and opens a set at each.
func startAll(t testing.TB, shared outage.Shared, n int, limits ...counter.Limit) (all []*replica, sets []counter.Set) {
	t.Helper()
	for range n {
		r := start(t, shared, n)
		all, sets = append(all, r), append(sets, r.open(limits...))
	}
	return all, sets
}

// patient is a deadline for tests outside of a bubble.
const patient = time.Minute

// startPatiently starts a replica that takes no busy machine for a store that is out.
func startPatiently(t testing.TB, shared outage.Shared, replicas int) *replica {
	t.Helper()
	return startWith(t, shared, outage.Options{Deadline: patient, Replicas: func() int { return replicas }, Clock: now})
}

func startWith(t testing.TB, shared outage.Shared, o outage.Options) *replica {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	o.Log = slog.New(slog.DiscardHandler)
	s := outage.New(ctx, shared, o)
	go s.Run(ctx)
	return &replica{s, stop}
}

// open opens a set of those who are admitted the replica's share.
func (r *replica) open(limits ...counter.Limit) counter.Set { return r.LocalShare().Open(limits) }

// settle ends a request.
func (r *replica) settle(t testing.TB, lease counter.LeaseID, taken time.Time, charges ...counter.Charge) {
	t.Helper()
	if err := r.Settle(t.Context(), now(), counter.Settlement{Lease: lease, Taken: taken, Charges: charges}); err != nil {
		t.Error(err)
	}
}

// charge is what was charged of a limit, and used. Both are 0 for slots.
func charge(l counter.Limit, charged, used int64) counter.Charge {
	return counter.Charge{Key: l.Key, Window: l.Window, Charged: charged, Used: used}
}

var names atomic.Uint64

func newLease() (l counter.LeaseID) {
	binary.BigEndian.PutUint64(l[:], names.Add(1))
	return l
}

func limit(w counter.Window, most int64) counter.Limit {
	l := counter.Limit{Window: w, Max: most}
	binary.BigEndian.PutUint64(l.Key[:], names.Add(1))
	return l
}

// take asks for one hit of each limit of a set, and returns the lease if it was admitted.
func take(t testing.TB, set counter.Set, hits ...int64) (counter.LeaseID, bool) {
	t.Helper()
	lease, at := newLease(), now()
	ok, err := set.Acquire(t.Context(), at, lease, at.Add(30*time.Second), hits, make([]counter.Count, len(hits)))
	if err != nil {
		t.Fatal(err)
	}
	return lease, ok
}

// admitted is how many of n tries of one hit are.
func admitted(t testing.TB, set counter.Set, n int) (sum int) {
	t.Helper()
	for range n {
		if _, ok := take(t, set, 1); ok {
			sum++
		}
	}
	return sum
}

func used(t testing.TB, s counter.Store, limits ...counter.Limit) []int64 {
	t.Helper()
	counts, out := make([]counter.Count, len(limits)), make([]int64, len(limits))
	if err := s.Peek(t.Context(), now(), limits, counts); err != nil {
		t.Fatal(err)
	}
	for i, c := range counts {
		out[i] = c.Used
	}
	return out
}

// wantUsed demands what the counters of limits hold.
func wantUsed(t testing.TB, when string, want []int64, s counter.Store, limits ...counter.Limit) {
	t.Helper()
	if diff := cmp.Diff(want, used(t, s, limits...)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// back waits until a store that is sound again is asked again.
func (r *replica) back() {
	for r.Stats().Out {
		pass(time.Millisecond)
	}
}
