package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// TestManyProcessesOnAClusterAreNeverOver has several stores offer five times what a limit admits, beside a limit of another
// subject that refuses half of them later.
func TestManyProcessesOnAClusterAreNeverOver(t *testing.T) {
	t.Parallel()
	const most, offered = 1000, 5000
	options := redis.Options{Addresses: redistest.StartCluster(t).Addrs()}
	s := open(t, options)
	start := func() *redis.Store { return open(t, options) }
	for _, processes := range []int{2, 4} {
		// All of one subject.
		one := []counter.Limit{some(fmt.Sprint("one ", processes), counter.Hour, most)}
		if admitted := offer(t, one, offered, processes, start); admitted != most {
			t.Errorf("%d processes admit %d of one subject, want %d", processes, admitted, most)
		}

		limits := []counter.Limit{some(fmt.Sprint("key ", processes), counter.Hour, most), some(fmt.Sprint("group ", processes), counter.Hour, most/2)}
		admitted := offer(t, limits, offered, processes, start)
		if admitted > most/2 {
			t.Errorf("%d processes admit %d, want at most %d", processes, admitted, most/2)
		}
		t.Logf("%d processes: %d of %d calls were refused too early", processes, most/2-admitted, offered)
		for _, l := range limits {
			if got := usedOf(t, s, noon, l); got != admitted {
				t.Errorf("%d were admitted, and a counter holds %d", admitted, got)
			}
		}
	}
}

// TestARefusalInDoubtIsTriedAgain has a call of one subject meet a counter that one of several subjects has filled, by a clock that is
// behind, or ahead, for longer than a doubt lasts.
func TestARefusalInDoubtIsTriedAgain(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	s := open(t, redis.Options{Addresses: cluster.Addrs()}).FreshAndSlow()
	runs := func() (n int) {
		for _, node := range cluster.Nodes[:3] {
			n += usedBy(node).runs
		}
		return n
	}
	for name, tc := range map[string]struct {
		final bool
		apart time.Duration
		want  int
	}{
		"by one clock":                  {apart: 0, want: 2},
		"by a clock that is ahead":      {apart: 2 * time.Minute, want: 2},
		"by a clock that is behind":     {apart: -2 * time.Minute, want: 2},
		"not after a take that is sure": {final: true, want: 1},
	} {
		full := some(name, counter.Hour, 1)
		takes := []counter.Limit{full, some("other", counter.Hour, 1000)}
		if tc.final {
			takes = takes[:1]
		}
		if _, ok := acquire(t, s, noon, takes...); !ok {
			t.Fatalf("%s: an empty counter is full", name)
		}
		before := runs()
		if _, ok := acquire(t, s, noon.Add(tc.apart), full); ok {
			t.Errorf("%s: a full counter admits", name)
		}
		if got := runs() - before; got != tc.want {
			t.Errorf("%s: who is refused has asked %d times, want %d", name, got, tc.want)
		}
	}
}

// A call that ends while it takes from one subject after the other leaves nothing taken.
func TestACallToAClusterEndsWithItsContextAndTakesNothing(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	s := open(t, redis.Options{Addresses: cluster.Addrs()})
	limits := make([]counter.Limit, 20) // on all masters
	for i := range limits {
		limits[i] = some(fmt.Sprint(i), counter.Hour, 10)
	}
	acquire(t, s, noon, limits...)

	cluster.Nodes[1].Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Open(limits).Acquire(ctx, noon, newLease(), noon.Add(time.Minute), slices.Repeat([]int64{1}, len(limits)), make([]counter.Count, len(limits)))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Acquire: %v, want that its deadline is exceeded", err)
	}
	cluster.Nodes[1].Resume()
	eventually(t, "all that was taken is given back", func() bool {
		counts := make([]counter.Count, len(limits))
		err := s.Peek(t.Context(), noon, limits, counts)
		return err == nil && !slices.ContainsFunc(counts, func(c counter.Count) bool { return c.Used != 1 })
	})
}

// TestACallWaitsForASlotOnTheMove has a counter be at its new node, which does not have the slot yet: it cannot tell whether the set of leases
// is still to come.
func TestACallWaitsForASlotOnTheMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	s := open(t, redis.Options{Addresses: cluster.Addrs()})
	l := some("a", counter.InUse, 10)
	acquire(t, s, noon, l)
	i := slices.IndexFunc(cluster.Nodes[:3], func(n *redistest.Server) bool { return valueOf(n) != "" })
	from, to := cluster.Nodes[i], cluster.Nodes[(i+1)%3]
	key := valueOf(from)
	slot, target := from.Do("cluster", "keyslot", key), to.Do("cluster", "myid")
	to.Do("cluster", "setslot", slot, "importing", from.Do("cluster", "myid"))
	from.Do("cluster", "setslot", slot, "migrating", target)
	host, port, _ := strings.Cut(to.Addr, ":")
	from.Do("migrate", host, port, key, "0", "5000")

	done := make(chan error, 1)
	go func() {
		_, err := s.Open([]counter.Limit{l}).Acquire(t.Context(), noon, newLease(), noon.Add(time.Minute), []int64{1}, make([]counter.Count, 1))
		done <- err
	}()
	eventually(t, "the new node asks for patience", func() bool { return strings.Contains(to.Do("info", "errorstats"), "TRYAGAIN") })
	to.Do("cluster", "setslot", slot, "node", target)
	if err := <-done; err != nil {
		t.Errorf("a call to a slot that moves: %v", err)
	}
	if got := usedOf(t, s, noon, l); got != 2 {
		t.Errorf("%d slots are held, want 2", got)
	}
}

// A replica takes over where a master dies, and the store finds it.
func TestAClusterComesBackByItself(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "--cluster-node-timeout", "5000") // A busy machine holds up the others for less.
	s := open(t, redis.Options{Addresses: cluster.Addrs()})
	limits := make([]counter.Limit, 20) // on all masters
	for i := range limits {
		limits[i] = some(fmt.Sprint(i), counter.Hour, 10)
		acquire(t, s, noon, limits[i])
	}
	cluster.Nodes[0].Kill()
	eventually(t, "all counters can be taken from again", func() bool {
		_, err := s.Open(limits).Acquire(t.Context(), noon, newLease(), noon, make([]int64, len(limits)), make([]counter.Count, len(limits)))
		return err == nil
	})
	if _, ok := acquire(t, s, noon, limits...); !ok {
		t.Error("counters that were taken from once are full")
	}
}

// Sentinels make a replica the master where that dies, and the store finds it. They ask for no password, and get none.
func TestAFailoverBySentinelsIsFollowed(t *testing.T) {
	t.Parallel()
	const password = "of-redis-alone"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	master := redistest.Start(t, "--requirepass", password, "--masterauth", password)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host, port, "--requirepass", password, "--masterauth", password)
	said := func(command ...string) string {
		return replica.Do(append([]string{"-a", password, "--no-auth-warning"}, command...)...)
	}
	eventually(t, "the replica has its master", func() bool { return strings.Contains(said("role"), "connected") })
	sentinel := redistest.StartSentinels(t, 1, master, 5*time.Second)[0]
	sentinel.Do("sentinel", "set", "main", "auth-pass", password)
	eventually(t, "the sentinel knows the replica", func() bool { return strings.Contains(sentinel.Do("sentinel", "replicas", "main"), replica.Addr) })

	s := open(t, redis.Options{Addresses: []string{sentinel.Addr}, SentinelMaster: "main", PasswordFile: file})
	l := some("a", counter.Hour, 2)
	acquire(t, s, noon, l)
	eventually(t, "the replica has the counter", func() bool { return strings.Contains(said("keys", "*"), "tk1:") })
	master.Kill()
	eventually(t, "the store uses the new master", func() bool {
		ok, err := s.Open([]counter.Limit{l}).Acquire(t.Context(), noon, newLease(), noon.Add(time.Second), []int64{1}, make([]counter.Count, 1))
		return ok && err == nil
	})
	if _, ok := acquire(t, s, noon, l); ok {
		t.Error("the new master has forgotten what was taken")
	}
}
