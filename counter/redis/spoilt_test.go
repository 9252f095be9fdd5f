package redis_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// valueOf is the key of the only value of a server.
func valueOf(server *redistest.Server) string {
	for key := range strings.Lines(server.Do("keys", "tk1:*")) {
		return strings.TrimSpace(key)
	}
	return ""
}

func TestWhatIsNoCounterIsAnErrorAndStays(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(s *redistest.Server, key string){
		"another type":   func(s *redistest.Server, key string) { s.Do("del", key); s.Do("rpush", key, "x") },
		"text":           func(s *redistest.Server, key string) { s.Do("set", key, "something else that is long enough") },
		"nothing":        func(s *redistest.Server, key string) { s.Do("set", key, "") },
		"a newer layout": func(s *redistest.Server, key string) { s.Do("setrange", key, "0", "\x02") },
		"half a counter": func(s *redistest.Server, key string) {
			s.Do("eval", "redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, 30))", "1", key)
		},
		"half a lease": func(s *redistest.Server, key string) {
			s.Do("eval", "redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, -9))", "1", key)
		},
		"a strange kind": func(s *redistest.Server, key string) { s.Do("setrange", key, "19", "\x7f") },
		"too many leases": func(s *redistest.Server, key string) {
			s.Do("eval", "redis.call('SETRANGE', KEYS[1], redis.call('STRLEN', KEYS[1]) - 18, string.char(9, 9))", "1", key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			s := open(t, redis.Options{Addresses: []string{server.Addr}})
			slot := some("a", counter.InUse, 10)
			lease, _ := acquire(t, s, noon, slot)
			key := valueOf(server)
			spoil(server, key)
			before := server.Do("dump", key)

			other := some("b", counter.Hour, 10)
			_, err := s.Open([]counter.Limit{other, slot}).Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1, 1}, make([]counter.Count, 2))
			errs := map[string]error{
				"Acquire": err,
				"Settle": s.Settle(t.Context(), noon, counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{
					{Key: other.Key, Window: counter.Hour, Used: 5}, {Key: slot.Key, Window: counter.InUse},
				}}),
				"Renew": s.Renew(t.Context(), noon, lease, []counter.Key{slot.Key}, noon.Add(time.Minute)),
				"Peek":  s.Peek(t.Context(), noon, []counter.Limit{slot}, make([]counter.Count, 1)),
			}
			for call, err := range errs {
				advice := map[bool]string{true: "WRONGTYPE", false: "then delete it"}[name == "another type"]
				if !errors.Is(err, counter.ErrUnreadable) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), advice) {
					t.Errorf("%s: the error is %v, want one that names the key %s and says %q", call, err, key, advice)
				}
			}
			if after := server.Do("dump", key); after != before {
				t.Errorf("the value was %q and is %q", before, after)
			}
			if got := usedOf(t, s, noon, other); got != 0 {
				t.Errorf("a counter beside it holds %d, want 0", got)
			}
		})
	}
}

// TestWhatIsNoCounterCostsNobodyElse, though calls of many are made in one run of the script.
func TestWhatIsNoCounterCostsNobodyElse(t *testing.T) {
	t.Parallel()
	const callers, rounds = 40, 20
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	failures := s.Failures()
	spoilt, sound, subject := some("spoilt", counter.Hour, 1000), some("sound", counter.Hour, 1000), counter.Subject{1}
	acquire(t, s, noon, spoilt)
	key := valueOf(server)
	server.Do("set", key, "something else")
	before := usedBy(server).runs
	take := func(l counter.Limit) error {
		_, err := s.Open([]counter.Limit{l}).Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1}, make([]counter.Count, 1))
		return err
	}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for range rounds {
				var err error
				switch i % 4 {
				case 0:
					if err = take(spoilt); errors.Is(err, counter.ErrUnreadable) && strings.Contains(err.Error(), key) {
						err = nil
					}
				case 1:
					_, err = failures.Fail(t.Context(), noon, subject, counter.Rule{Max: 1000, Window: time.Minute, Block: time.Minute})
				default:
					err = take(sound)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := usedOf(t, s, noon, sound); got != callers/2*rounds {
		t.Errorf("%d are counted, want %d", got, callers/2*rounds)
	}
	if runs := usedBy(server).runs - before; runs > callers*rounds/2 {
		t.Errorf("the script ran %d times for %d calls: few were together", runs, callers*rounds)
	}
}

// TestASetOfAnotherTypeIsAnErrorThatNamesIt and leaves the value as it is.
func TestASetOfAnotherTypeIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}}).FreshWithFewLeases()
	slot, rate := some("a", counter.InUse, 10), some("b", counter.Hour, 10)
	acquire(t, s, noon, slot)
	lease, _ := acquire(t, s, noon, slot, rate)
	if err := s.Settle(t.Context(), noon, counter.Settlement{Lease: newLease(), Taken: noon, Charges: []counter.Charge{{Key: slot.Key, Window: slot.Window}}}); err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{":held", ":settled"} {
		var key string
		for k := range strings.FieldsSeq(server.Do("keys", "*"+set)) {
			key = k
		}
		server.Do("rename", key, "away")
		server.Do("rpush", key, "x")
		_, err := s.Open([]counter.Limit{slot}).Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1}, make([]counter.Count, 1))
		errs := map[string]error{
			"Settle": s.Settle(t.Context(), noon, counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{
				{Key: rate.Key, Window: rate.Window, Charged: 1}, {Key: slot.Key, Window: slot.Window},
			}}),
			"Renew": s.Renew(t.Context(), noon, newLease(), []counter.Key{slot.Key}, noon.Add(time.Minute)),
		}
		if set == ":held" {
			errs["Acquire"] = err
		}
		for call, err := range errs {
			if !errors.Is(err, counter.ErrUnreadable) || !strings.Contains(err.Error(), "WRONGTYPE") || !strings.Contains(err.Error(), key) {
				t.Errorf("%s: the error is %v, want one that names the key %s", call, err, key)
			}
		}
		if got := usedOf(t, s, noon, rate); got != 1 {
			t.Errorf("a counter beside it holds %d, want 1", got)
		}
		server.Do("rename", "away", key)
	}
}
