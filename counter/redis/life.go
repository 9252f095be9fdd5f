package redis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A life is the time for which Redis forgets nothing.
type life struct {
	name string
	// empty: it began with nothing. Otherwise with what Redis had on disk, which may be old.
	empty bool
}

// Life names what the store has held since it was last empty, or since Redis was started, unless it keeps an appendonly file: that has
// what there was. In a cluster, where one node may have forgotten and others not, it is always the same.
func (s *Store) Life(ctx context.Context) (string, error) {
	l, err := s.askLife(ctx)
	if err != nil {
		return "", fmt.Errorf("asking Redis since when it has its counters: %w", err)
	}
	s.life.Store(&l)
	return l.name, nil
}

func (s *Store) askLife(ctx context.Context) (life, error) {
	if s.spread {
		return life{"cluster", true}, nil
	}
	info, err := s.client.Do(ctx, s.client.B().Info().Build()).ToString()
	if err != nil {
		return life{}, err
	}
	run, key := field(info, "run_id"), s.prefix+layout+":life"
	answers := s.client.DoMulti(ctx,
		s.client.B().Set().Key(key).Value(run+"-"+rand.Text()).Nx().Build(),
		s.client.B().Get().Key(key).Build())
	if err := answers[0].Error(); err != nil && !rueidis.IsRedisNil(err) {
		return life{}, err
	}
	born, err := answers[1].ToString()
	if err != nil {
		return life{}, err
	}
	if strings.HasPrefix(born, run) || field(info, "aof_enabled") == "1" {
		return life{born, true}, nil
	}
	return life{born + "-" + run, false}, nil
}

// Restore charges counters what they held before the store forgot it: in each life as much as the replica saw that saw most. A store
// that was started again with what it had on disk is charged by how much it holds less at the first call. What lies in windows that
// slide, or are over, and slots, are not restored. It may fail and have restored part.
func (s *Store) Restore(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	var parts []part
	for i, l := range limits {
		if l.Window == counter.InUse || l.Window.Slides() || counts[i].Used <= 0 || !now.Before(counts[i].Reset) {
			continue
		}
		parts = append(parts, part{key: l.Key, window: l.Window, amount: amount{counts[i].Reset.Unix(), counts[i].Used}})
	}
	if len(parts) == 0 {
		return nil
	}
	l := s.life.Load()
	if l == nil {
		if _, err := s.Life(ctx); err != nil {
			return err
		}
		l = s.life.Load()
	}
	sum := sha256.Sum256([]byte(l.name))
	h := header{mode: restore, final: l.empty, now: micros(now), lease: counter.LeaseID(sum[:])}
	return each(s.group(parts, restore), func(g *group) error {
		_, err := s.ask(ctx, s.question(g, h.request(g, g.said)))
		return wrap("restoring", err)
	})
}
