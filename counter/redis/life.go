package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/counter"
)

// Life names what the store has held since it was last empty: one that has forgotten everything has another. In a cluster, where one
// node may have forgotten and others not, it is always the same.
func (s *Store) Life(ctx context.Context) (string, error) {
	if s.spread {
		return "cluster", nil
	}
	key := s.prefix + layout + ":life"
	answers := s.client.DoMulti(ctx,
		s.client.B().Set().Key(key).Value(rand.Text()).Nx().Build(),
		s.client.B().Get().Key(key).Build())
	if err := answers[0].Error(); err != nil && !rueidis.IsRedisNil(err) {
		return "", fmt.Errorf("asking Redis since when it has its counters: %w", err)
	}
	life, err := answers[1].ToString()
	if err != nil {
		return "", fmt.Errorf("asking Redis since when it has its counters: %w", err)
	}
	return life, nil
}

// Restore charges counters what they held before the store forgot them: each once in a life, whoever is the first. What lies in
// windows that slide, or are over, and slots, are not restored.
func (s *Store) Restore(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	var lost counter.Settlement
	var firsts rueidis.Commands
	for i, l := range limits {
		if l.Window == counter.InUse || l.Window.Slides() || counts[i].Used == 0 || !now.Before(counts[i].Reset) {
			continue
		}
		lost.Charges = append(lost.Charges, counter.Charge{Key: l.Key, Window: l.Window, Used: counts[i].Used})
		key := fmt.Sprintf("%s:%x:restored", s.valueKey(l.Key), l.Key.Counter())
		firsts = append(firsts, s.client.B().Set().Key(key).Value("1").Nx().Px(counts[i].Reset.Sub(now)+time.Minute).Build())
	}
	if len(firsts) == 0 {
		return nil
	}
	_, _ = rand.Read(lost.Lease[:])
	lost.Taken = now
	all := lost.Charges
	lost.Charges = nil
	var errs []error
	for i, answer := range s.client.DoMulti(ctx, firsts...) {
		switch err := answer.Error(); {
		case err == nil:
			lost.Charges = append(lost.Charges, all[i])
		case !rueidis.IsRedisNil(err):
			errs = append(errs, err)
		}
	}
	return wrap("restoring", errors.Join(append(errs, s.Settle(ctx, now, lost))...))
}
