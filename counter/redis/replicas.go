package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	announceEvery = 5 * time.Second
	// goneAfter is for how long a replica counts that says nothing.
	goneAfter = 3 * announceEvery
)

// announce notes that a replica is there, forgets those that say nothing any more, and those that say so from the future, and counts
// the rest. It goes by the clock of Redis, which is the same for all.
var announce = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[2], '+inf')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
`)

// Replicas knows how many processes share a store. It is safe for concurrent use.
type Replicas struct {
	store *Store
	name  string
	said  [goneAfter / announceEvery]int64 // by the store, the newest first; Run's alone
	n     atomic.Int64
}

// Join counts this process among those that share the store, from the first announcement of Run on. Its name is random, so that no
// other has it, and nobody who reads the store learns where it runs.
func (s *Store) Join() *Replicas {
	r := &Replicas{store: s, name: rand.Text()}
	r.n.Store(1)
	return r
}

// Count is the most that the last answers of the store said, this one included. A store that comes back empty knows only those that
// have found it already: a replica that went by that would take the part of others.
func (r *Replicas) Count() int { return int(r.n.Load()) }

// Run announces this process until ctx ends, and takes it back then.
func (r *Replicas) Run(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		if err := r.announce(ctx); err != nil && ctx.Err() == nil {
			r.store.log.DebugContext(ctx, "could not tell Redis that this replica is there", "error", err)
		}
		select {
		case <-ctx.Done():
			r.leave(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
	}
}

func (r *Replicas) key() string { return r.store.prefix + layout + ":replicas" }

func (r *Replicas) announce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n, err := announce.Exec(ctx, r.store.client, []string{r.key()}, []string{r.name, strconv.FormatInt(goneAfter.Milliseconds(), 10)}).AsInt64()
	if err != nil {
		return fmt.Errorf("announcing: %w", err)
	}
	copy(r.said[1:], r.said[:])
	r.said[0] = n
	r.n.Store(max(slices.Max(r.said[:]), 1))
	return nil
}

func (r *Replicas) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = r.store.client.Do(ctx, r.store.client.B().Zrem().Key(r.key()).Member(r.name).Build()).Error() // It is forgotten all the same.
}
