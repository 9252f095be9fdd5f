package ratelimit

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Settle puts what a request truly cost in the place of what it had reserved, and frees its slots. An error means that the
// lease is not one of ours, or that the store failed.
func (l *Limiter) Settle(ctx context.Context, s *descriptor.Settle) error {
	held, err := l.leases.open(s.Lease)
	if err != nil {
		return fmt.Errorf("settling: %w", err)
	}
	ratio := l.ratios.find(held.model)
	cost := spent(s, held, ratio)
	l.ratios.learn(ratio, s, held, &cost)
	used := cost.amounts(held.cachedPercent)
	settlement := counter.Settlement{Lease: held.id, Taken: held.taken, Charges: make([]counter.Charge, len(held.charges))}
	for i, c := range held.charges {
		settlement.Charges[i] = counter.Charge{Key: c.key, Window: c.window, Charged: c.charged, Used: used.of(c.metric)}
		if cost.Kept {
			settlement.Charges[i].Used = max(c.charged, used.of(c.metric))
		}
	}
	now := l.clock()
	l.rehearsals.each(func(r *rehearsal) { r.end(held.id, now) })
	if err := l.store.Settle(ctx, now, settlement); err != nil {
		return fmt.Errorf("settling lease %s: %w", held.id, err)
	}
	l.queues.freed(settlement.Charges)
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "settled", "lease", held.id.String(), "status", s.Code, "inputTokens", cost.Input, "outputTokens", cost.Output,
			"cachedTokens", cost.Cached, "inputEstimated", cost.InputEstimated, "outputEstimated", cost.OutputEstimated, "reservationKept", cost.Kept, "outputBytes", s.OutputBytes)
	}
	return nil
}

// Renew takes note that a request is still under way, so that its concurrency slots stay taken for another SlotExpiry.
func (l *Limiter) Renew(ctx context.Context, sealed string) error {
	held, err := l.leases.open(sealed)
	if err != nil {
		return fmt.Errorf("renewing: %w", err)
	}
	var slots []counter.Key
	for _, c := range held.charges {
		if c.window == counter.InUse {
			slots = append(slots, c.key)
		}
	}
	now := l.clock()
	l.rehearsals.each(func(r *rehearsal) { r.alive(held.id, now) })
	if len(slots) == 0 {
		return nil
	}
	if err := l.store.Renew(ctx, now, held.id, slots, now.Add(SlotExpiry)); err != nil {
		return fmt.Errorf("renewing lease %s: %w", held.id, err)
	}
	return nil
}
