package ratelimit

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Settle puts what a request truly cost in the place of what it had reserved, and frees its slots. An error means that the
// lease is not one of ours or was settled before, so that nothing was done, or that the store failed.
func (l *Limiter) Settle(ctx context.Context, s *descriptor.Settle) error {
	now := l.clock()
	var held lease
	err := l.leases.open(s.Lease, &held)
	if err == nil {
		err = l.leases.close(&held, now)
	}
	if err != nil {
		return fmt.Errorf("settling: %w", err)
	}
	l.answered(ctx, held.subject, int(s.Code))
	if s.Absurd {
		l.note(ctx, l.log, absurdUsage, "a provider reports numbers of tokens that no request can have; they count as no report", "lease", held.id.String())
	}
	ratio := l.ratios.find(held.model)
	cost := spent(s, &held, ratio)
	l.ratios.learn(ratio, s, &held, &cost)
	used := cost.amounts(held.cachedPercent)
	settlement := counter.Settlement{Lease: held.id, Taken: held.taken, Charges: held.charges}
	for i := range held.charges {
		c := &held.charges[i]
		c.Used = used.of(held.metrics[i])
		if cost.Kept {
			c.Used = max(c.Used, c.Charged)
		}
	}
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
	now := l.clock()
	var held lease
	if err := l.leases.open(sealed, &held); err != nil {
		return fmt.Errorf("renewing: %w", err)
	}
	if !l.leases.alive(&held, now) {
		return nil // A sign of life may come after the end.
	}
	var slots []counter.Key
	for _, c := range held.charges {
		if c.Window == counter.InUse {
			slots = append(slots, c.Key)
		}
	}
	l.rehearsals.each(func(r *rehearsal) { r.alive(held.id, now) })
	if len(slots) == 0 {
		return nil
	}
	if err := l.store.Renew(ctx, now, held.id, slots, now.Add(SlotExpiry)); err != nil {
		return fmt.Errorf("renewing lease %s: %w", held.id, err)
	}
	return nil
}
