package redis_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/internal/await"
	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// some is a limit on a counter of its own subject.
func some(name string, w counter.Window, most int64) counter.Limit {
	return counter.Limit{Key: counter.NewKey(name, name, name), Window: w, Max: most}
}

func acquire(tb testing.TB, s *redis.Store, now time.Time, limits ...counter.Limit) (counter.LeaseID, bool) {
	tb.Helper()
	hits, lease := make([]int64, len(limits)), newLease()
	for i := range hits {
		hits[i] = 1
	}
	ok, err := s.Open(limits).Acquire(tb.Context(), now, lease, now.Add(30*time.Second), hits, make([]counter.Count, len(limits)))
	if err != nil {
		tb.Fatal(err)
	}
	return lease, ok
}

func usedOf(tb testing.TB, s *redis.Store, now time.Time, l counter.Limit) int64 {
	tb.Helper()
	counts := make([]counter.Count, 1)
	if err := s.Peek(tb.Context(), now, []counter.Limit{l}, counts); err != nil {
		tb.Fatal(err)
	}
	return counts[0].Used
}

// eventually waits until what it waits for has happened.
func eventually(tb testing.TB, what string, happened func() bool) {
	tb.Helper()
	await.True(tb, enough, what, happened)
}

func TestANewPasswordIsReadFromItsFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "first-secret")
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options := redis.Options{Addresses: []string{server.Addr}, PasswordFile: file, Log: slog.New(slog.DiscardHandler)}

	write("wrong-secret")
	_, err := redis.New(t.Context(), options)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "refuses the user or the password") {
		t.Errorf("with a wrong password the error is %v", err)
	}
	write("first-secret")
	s := open(t, options)
	acquire(t, s, noon, some("a", counter.Hour, 10))

	write("second-secret")
	server.Do("-a", "first-secret", "--no-auth-warning", "config", "set", "requirepass", "second-secret")
	server.Do("-a", "second-secret", "--no-auth-warning", "client", "kill", "type", "normal")
	l := some("a", counter.Hour, 10)
	eventually(t, "the store connects with the new password", func() bool {
		counts := make([]counter.Count, 1)
		return s.Peek(t.Context(), noon, []counter.Limit{l}, counts) == nil && counts[0].Used == 1
	})
}

// TestTheUserOfTheDocsMayDoEverything that a store does, and has no more rights than it says.
func TestTheUserOfTheDocsMayDoEverything(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(doc), "\nACL SETUSER ")
	line, _, _ = strings.Cut(line, "\n")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("PASSWORD"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t)
	server.Do(append([]string{"acl", "setuser"}, strings.Fields(line)...)...)
	s := open(t, redis.Options{Addresses: []string{server.Addr}, Username: "tierkeeper", PasswordFile: file})
	l := some("a", counter.InUse, 100)
	var lease counter.LeaseID
	for range 100 {
		lease, _ = acquire(t, s, noon, l)
	}
	f := s.Failures()
	blockAt(t, f, noon, counter.Subject{1})
	_, lifted := f.Lift(t.Context(), noon, counter.Subject{1})
	_, read := f.Blocks(t.Context(), noon)
	for call, err := range map[string]error{
		"Renew": s.Renew(t.Context(), noon.Add(time.Second), lease, []counter.Key{l.Key}, noon.Add(time.Minute)),
		"Settle": s.Settle(t.Context(), noon.Add(time.Minute), counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{
			{Key: l.Key, Window: counter.InUse},
		}}),
		"Peek":    s.Peek(t.Context(), noon, []counter.Limit{l}, make([]counter.Count, 1)),
		"Probe":   s.Probe(t.Context()),
		"Restore": s.Restore(t.Context(), noon, []counter.Limit{some("b", counter.Hour, 100)}, []counter.Count{{Used: 1, Reset: noon.Add(time.Hour)}}),
		"Lift":    lifted,
		"Blocks":  read,
	} {
		if err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
	lifeOf(t, s)
	one, other := s.Join(), s.Join()
	go one.Run(t.Context())
	go other.Run(t.Context())
	eventually(t, "replicas count themselves", func() bool { return max(one.Count(), other.Count()) == 2 })
	go f.Follow(t.Context(), nil)
	eventually(t, "the store listens", func() bool { return server.Do("pubsub", "channels") != "" })
	if log := server.Do("acl", "log"); log != "" {
		t.Errorf("the user was refused:\n%s", log)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "authority")
	mount := testca.NewMount(t, ca.PEM, ca.Issue(t, "redis"))
	server := redistest.StartTLS(t, mount.Cert(), mount.Key(), mount.CA())
	options := redis.Options{Addresses: []string{server.Addr}, TLS: &tls.Config{
		RootCAs: ca.Pool(), ServerName: "redis", Certificates: []tls.Certificate{ca.Issue(t, "tierkeeper").TLS(t)}, MinVersion: tls.VersionTLS12,
	}}
	acquire(t, open(t, options), noon, some("a", counter.Hour, 10))

	options.TLS, options.Log = options.TLS.Clone(), slog.New(slog.DiscardHandler)
	options.TLS.RootCAs = testca.New(t, "another").Pool()
	if _, err := redis.New(t.Context(), options); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with the certificate of somebody else the error is %v", err)
	}
}

func TestWhatCannotBeUsedIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	log := slog.New(slog.DiscardHandler)
	server.Do("set", "newer:layout", "2")
	server.Do("rpush", "list:layout", "1")
	server.Do("acl", "setuser", "no-evalsha", "on", "nopass", "~*", "+@all", "-evalsha")
	for name, test := range map[string]struct {
		options redis.Options
		want    string
	}{
		"no address":                {redis.Options{}, "the address of Redis is missing"},
		"a prefix with braces":      {redis.Options{Addresses: []string{server.Addr}, Prefix: "a{b}"}, "must not have braces"},
		"a newer layout":            {redis.Options{Addresses: []string{server.Addr}, Prefix: "newer"}, `layout "2", and this release knows 1`},
		"a layout of another type":  {redis.Options{Addresses: []string{server.Addr}, Prefix: "list"}, "list:layout"},
		"no cluster":                {redis.Options{Addresses: []string{server.Addr}, Cluster: true}, "it is not a cluster"},
		"nobody there":              {redis.Options{Addresses: []string{"127.0.0.1:1"}}, "connection refused"},
		"a user without EVALSHA":    {redis.Options{Addresses: []string{server.Addr}, Username: "no-evalsha"}, "may not run scripts"},
		"a password file not there": {redis.Options{Addresses: []string{server.Addr}, PasswordFile: "not-there"}, "not-there"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.options.Log = log
			s, err := redis.New(t.Context(), test.options)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestEvictionIsWarnedOf(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	var log bytes.Buffer
	open(t, redis.Options{Addresses: []string{server.Addr}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "maxmemory_policy=allkeys-lru") {
		t.Errorf("the log is %q", log.String())
	}
}

// A store that is full of many tenants' old counters would end all counting.
func TestEverythingExpires(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	for w := counter.Second; w.Valid(); w++ {
		l := some(w.String(), w, 1000)
		for range 100 {
			lease, _ := acquire(t, s, noon, l)
			if w == counter.InUse {
				continue
			}
			err := s.Settle(t.Context(), noon, counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{{Key: l.Key, Window: w, Charged: 1, Used: 2}}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	slot := some("settled", counter.InUse, 10)
	lease, _ := acquire(t, s, noon, slot)
	if err := s.Settle(t.Context(), noon, counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{{Key: slot.Key, Window: counter.InUse}}}); err != nil {
		t.Fatal(err)
	}
	f := s.Failures()
	for range 3 {
		if _, err := f.Fail(t.Context(), noon, counter.Subject{1}, counter.Rule{Max: 2, Window: time.Minute, Block: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	keys := strings.Fields(server.Do("keys", "*"))
	if len(keys) < 10 {
		t.Fatalf("the keys are %v", keys)
	}
	for _, key := range keys {
		left, _ := strconv.Atoi(server.Do("pttl", key))
		if key != "tk:layout" && (left <= 0 || left > 32*24*3600*1000) {
			t.Errorf("%s has %d ms to live", key, left)
		}
	}
}

// TestSettledLeasesAreForgottenUnderLoad has takes move the clock of the counter before each settlement.
func TestSettledLeasesAreForgottenUnderLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	slot := some("a", counter.InUse, 10)
	var lease counter.LeaseID
	now := noon
	for range 200 {
		now = now.Add(time.Second)
		lease, _ = acquire(t, s, now, slot)
		if err := s.Settle(t.Context(), now, counter.Settlement{Lease: lease, Taken: now, Charges: []counter.Charge{{Key: slot.Key, Window: slot.Window}}}); err != nil {
			t.Fatal(err)
		}
	}
	key := strings.TrimSpace(server.Do("keys", "*:settled"))
	if n, err := strconv.Atoi(strings.TrimSpace(server.Do("zcard", key))); err != nil || n < 20 || n > 24 {
		t.Errorf("after 200 settlements %d leases are remembered (%v), want those of 20 s and a few", n, err)
	}
	if err := s.Renew(t.Context(), now.Add(19*time.Second), lease, []counter.Key{slot.Key}, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := usedOf(t, s, now.Add(19*time.Second), slot); got != 0 {
		t.Errorf("after a settled lease is renewed %d slots are in use, want 0", got)
	}
}

// A clock that was a year ahead, once, must not stop everybody for a year.
func TestACounterFromTheFutureIsForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	l := some("a", counter.Minute, 2)
	acquire(t, s, noon.AddDate(1, 0, 0), l)
	acquire(t, s, noon, l)
	if _, ok := acquire(t, s, noon, l); ok {
		t.Fatal("a window of the future began anew")
	}
	if left, _ := strconv.Atoi(server.Do("pttl", valueOf(server))); left <= 0 || left > 150_000 {
		t.Errorf("it has %d ms to live, want at most 150,000", left)
	}
}

// A clock that was two days ahead, once, must not end the life of what counts for the month.
func TestAMonthOutlivesAWrongClock(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	minute, month := some("a", counter.Minute, 10), some("a", counter.Month, 10)
	month.Key = counter.NewKey("a", "a", "month")
	_, ends := counter.Month.Bounds(noon)
	for _, now := range []time.Time{noon, noon.AddDate(0, 0, 2), noon} {
		acquire(t, s, now, minute, month)
		left, _ := strconv.Atoi(server.Do("pttl", valueOf(server)))
		if want := ends.Sub(now); time.Duration(left)*time.Millisecond < want {
			t.Errorf("at %v it has %d ms to live, want at least %v", now, left, want)
		}
	}
}

func TestWindowsThatEndedAreDropped(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	now := noon
	for i := range 50 { // such as the counters of tiers that a key had
		l := some("a", counter.Minute, 2)
		l.Key = counter.NewKey("a", "a", fmt.Sprint("a", i))
		acquire(t, s, now, l)
		now = now.Add(time.Minute)
	}
	if size, _ := strconv.Atoi(server.Do("strlen", valueOf(server))); size > 200 {
		t.Errorf("a value with one counter that counts has %d bytes", size)
	}
}

func TestACallEndsWithItsContextAndTakesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	rate, slot := some("a", counter.Month, 100), some("b", counter.InUse, 100)
	acquire(t, s, noon, rate, slot)
	set := s.Open([]counter.Limit{rate, slot})
	const gone = 20
	before := usedBy(server).runs

	server.Pause()
	var calls sync.WaitGroup
	for range gone {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // in which all have sent what they ask
			defer cancel()
			if _, err := set.Acquire(ctx, noon, newLease(), noon.Add(time.Minute), []int64{1, 1}, make([]counter.Count, 2)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Acquire: %v, want that its deadline is exceeded", err)
			}
		})
	}
	calls.Wait()
	server.Resume()
	eventually(t, "something is taken for those who have gone", func() bool { return usedBy(server).runs > before })
	eventually(t, "what was taken for those who have gone is given back", func() bool {
		return usedOf(t, s, noon, rate) == 1 && usedOf(t, s, noon, slot) == 1
	})
}

func TestAStoreComesBackByItself(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	l := some("a", counter.Hour, 10)
	acquire(t, s, noon, l)
	server.Do("script", "flush")
	acquire(t, s, noon, l)
	server.Kill()
	if err := s.Peek(t.Context(), noon, []counter.Limit{l}, make([]counter.Count, 1)); err == nil {
		t.Error("a Redis that was killed answers")
	}
	server.Restart()
	set := s.Open([]counter.Limit{l})
	eventually(t, "the store is there again", func() bool { // each of its connections finds out by itself
		ok, err := set.Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1}, make([]counter.Count, 1))
		return ok && err == nil
	})
}

// The memory is full, or it is a replica: whatever Redis says, nothing is half done.
func TestAnErrorOfRedisIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	limits := []counter.Limit{some("a", counter.Hour, 10), some("b", counter.Hour, 10)}
	for setting, want := range map[string]string{"maxmemory 1": "OOM", "min-replicas-to-write 1": "NOREPLICAS"} {
		name, value, _ := strings.Cut(setting, " ")
		server.Do("config", "set", name, value)
		_, err := s.Open(limits).Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1, 1}, make([]counter.Count, 2))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s the error is %v, want %s", setting, err, want)
		}
		server.Do("config", "set", name, "0")
	}
	for _, l := range limits {
		if got := usedOf(t, s, noon, l); got != 0 {
			t.Errorf("a counter holds %d, want 0", got)
		}
	}
}

// TestARefundThatRedisRefusesCanBeMadeAgain. Of one that is not answered nobody knows.
func TestARefundThatRedisRefusesCanBeMadeAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	l, other := some("a", counter.Month, 10), some("b", counter.Month, 10)
	lease, _ := acquire(t, s, noon, l, other)
	refund := counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{
		{Key: l.Key, Window: counter.Month, Charged: 1}, {Key: other.Key, Window: counter.Month, Charged: 1},
	}}
	for _, setting := range []string{"maxmemory", "min-replicas-to-write"} {
		server.Do("config", "set", setting, "1")
		if err := s.Settle(t.Context(), noon, refund); !errors.Is(err, counter.ErrNotDone) {
			t.Errorf("with %s the error is %v, want ErrNotDone", setting, err)
		}
		server.Do("config", "set", setting, "0")
		if n := usedOf(t, s, noon, l) + usedOf(t, s, noon, other); n != 2 {
			t.Errorf("with %s %d are used, want 2", setting, n)
		}
	}
	server.Kill()
	if err := s.Settle(t.Context(), noon, refund); err == nil || errors.Is(err, counter.ErrNotDone) {
		t.Errorf("without an answer the error is %v", err)
	}
}

// TestManyProcessesAreExact has several stores, each with connections of its own, offer five times what a limit admits.
func TestManyProcessesAreExact(t *testing.T) {
	t.Parallel()
	const most, offered = 1000, 5000
	server := redistest.Start(t)
	for _, processes := range []int{2, 4} {
		limits := []counter.Limit{some(fmt.Sprint("rate ", processes), counter.Hour, most), some(fmt.Sprint("slots ", processes), counter.InUse, 2*most)}
		admitted := offer(t, limits, offered, processes, func() *redis.Store { return open(t, redis.Options{Addresses: []string{server.Addr}}) })
		if diff := cmp.Diff(int64(most), admitted); diff != "" {
			t.Errorf("%d processes admit (-want +got):\n%s", processes, diff)
		}
	}
}

// offer takes one hit of each limit, and returns how often that was admitted.
func offer(t *testing.T, limits []counter.Limit, offered, processes int, start func() *redis.Store) int64 {
	t.Helper()
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range processes {
		set := start().Open(limits)
		for range 50 {
			all.Go(func() {
				for range offered / processes / 50 {
					hits, counts := make([]int64, len(limits)), make([]counter.Count, len(limits))
					for i := range hits {
						hits[i] = 1
					}
					ok, err := set.Acquire(t.Context(), noon, newLease(), noon.Add(time.Minute), hits, counts)
					if err != nil {
						t.Errorf("Acquire: %v", err)
					}
					if ok {
						admitted.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	return admitted.Load()
}
