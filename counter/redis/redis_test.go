package redis_test

import (
	"log/slog"
	"testing"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

func open(tb testing.TB, o redis.Options) *redis.Store {
	tb.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
	s, err := redis.New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: []string{redistest.Start(t).Addr}})
	countertest.Run(t, func(*testing.T) counter.Store { return s.Fresh() })
}

// TestLeasesInSets holds what a value has no room for to the same promises.
func TestLeasesInSets(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: []string{redistest.Start(t).Addr}})
	countertest.Run(t, func(*testing.T) counter.Store { return s.FreshWithFewLeases() })
}

func TestStoreInACluster(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: redistest.StartCluster(t).Addrs()})
	countertest.RunSpread(t, func(*testing.T) counter.Store { return s.Fresh() })
}

func TestFailures(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: []string{redistest.Start(t).Addr}})
	countertest.RunFailures(t, func(*testing.T) counter.Failures { return s.Fresh().Failures() })
}

func TestFailuresInACluster(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: redistest.StartCluster(t).Addrs()})
	countertest.RunFailures(t, func(*testing.T) counter.Failures { return s.Fresh().Failures() })
}
