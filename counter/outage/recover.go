package outage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// Run notices a store that is silent, and one that is back, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Deadline / ticks)
	defer tick.Stop()
	go func() {
		if life, err := s.shared.Life(ctx); err == nil { // Else it is learnt after the first outage.
			s.first <- life
		}
	}()
	go s.makeUp(ctx)
	w := silence{every: s.opts.Deadline / ticks, looked: s.opts.Clock()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-tick.C:
		}
		st := s.state.Load()
		switch {
		case st.out != nil:
			s.endure(ctx, st.out)
			w.broken(s.opts.Clock())
		case w.lasts(s.opts.Clock(), st.waits(), st.heard.Swap(false)):
			_ = s.fail(st, s.opts.Clock(), errSilent)
		case w.turns() && st.turn():
			_ = s.fail(st, s.opts.Clock(), errSlow)
		}
	}
}

// endure returns when the store is back, or ctx ends. At first it waits, for those whose calls have ended to get their answer without
// the store: they would ask it again, and perhaps wait again.
func (s *Store) endure(ctx context.Context, out *standIn) {
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	warned := out.since
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		err := s.probe(ctx)
		if err == nil {
			err = s.recover(ctx, out)
		}
		if err == nil {
			return
		}
		if now := s.opts.Clock(); now.Sub(warned) >= warnEvery && ctx.Err() == nil {
			warned = now
			s.opts.Log.WarnContext(ctx, "the counter store is still out", "error", err, "next", "told at most once a minute")
		}
	}
}

func (s *Store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.opts.Deadline)
	defer cancel()
	return s.shared.Probe(ctx) //nolint:wrapcheck // It says what is wrong with the store.
}

// recover charges the store what was counted without it, and has it asked again. What it cannot read is left out.
func (s *Store) recover(ctx context.Context, out *standIn) error {
	if err := s.learn(ctx); err != nil {
		return err
	}
	if err := s.restoreAll(ctx, s.opts.Clock(), out); err != nil {
		return err
	}
	if err := s.claim(ctx, out); err != nil {
		return err
	}
	if err := s.tell(ctx, out); err != nil && !errors.Is(err, counter.ErrUnreadable) {
		return err
	}
	s.opening.Lock()
	out.end()
	s.state.Store(s.sound())
	s.opening.Unlock()
	if err := s.seeUntold(ctx, out); err != nil {
		return err
	}
	s.opts.Log.Info("the counter store is back", "after", s.opts.Clock().Sub(out.since).String())
	select {
	case s.owed <- out: // It may have counted since it was told.
	case <-ctx.Done():
	}
	return nil
}

// makeUp tells the store, until ctx ends, what was counted without it, and that it was not told before it was asked again.
func (s *Store) makeUp(ctx context.Context) {
	again := time.NewTicker(tellEvery)
	defer again.Stop()
	var owed []*standIn
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-s.owed:
			owed = append(owed, in)
		case <-again.C:
		}
		if s.state.Load().out != nil {
			continue
		}
		if in := s.aside.Load(); in != nil && s.tell(ctx, in) == nil {
			s.opening.Lock()
			in.end()
			s.aside.Store(nil)
			s.opening.Unlock()
			owed = append(owed, in)
		}
		owed = slices.DeleteFunc(owed, func(in *standIn) bool {
			err := s.tell(ctx, in)
			return err == nil || errors.Is(err, counter.ErrUnreadable)
		})
	}
}

// tell makes up for what was counted without the store, and learns what all have used. What the store cannot read is left out, and an
// error.
func (s *Store) tell(ctx context.Context, in *standIn) error {
	now := s.opts.Clock()
	if err := s.restoreAll(ctx, now, in); err != nil {
		return err
	}
	err := in.tell(ctx, now, s.shared)
	if readable(err) != nil {
		return err
	}
	return cmp.Or(s.look(ctx, now, in), err)
}

// learn finds out whether the store has forgotten everything. What was seen of it is restored before it is charged or asked for.
func (s *Store) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	life, err := s.shared.Life(ctx)
	if err != nil {
		return err //nolint:wrapcheck // It says what is wrong with the store.
	}
	if s.life == "" {
		select {
		case s.life = <-s.first:
		default:
		}
	}
	if s.life != "" && s.life != life {
		s.losses.Add(1)
		s.opts.Log.WarnContext(ctx, "the counter store has forgotten everything; what this replica saw of it is restored: keep it on disk, and copied")
	}
	s.life = life
	return nil
}

// claim returns when the other replicas have found the store as well. What they have admitted, or may until they ask it again, is
// charged to it then: a replica that asked it at once would be admitted the same.
func (s *Store) claim(ctx context.Context, out *standIn) error {
	if out.replicas == 1 {
		return nil
	}
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	for range claims {
		if err := out.claim(ctx, s.opts.Clock(), s.shared); err != nil && !errors.Is(err, counter.ErrUnreadable) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
	return nil
}
