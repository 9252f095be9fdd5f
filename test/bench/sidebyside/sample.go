package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
)

// busy is the work of others, in cores, from which on a round says nothing.
const busy = 0.35

// A contestant is what is measured in each round.
type contestant struct {
	name string
	plan *load.Plan
	read func(ctx context.Context) (reading, error)
	// allocations is how many there have been since the beginning; 0 where that is not known.
	allocations func(ctx context.Context) (uint64, error)
	check       func(*sample) error // that it was as it ought to be; nothing: no more than that all was answered
}

// A reading is what has been taken since the beginning, of everything that belongs to what is measured.
type reading struct {
	cpu, storeCPU time.Duration // of the service, and of its Redis
	besides       time.Duration // CPU of what else is needed: it is no work of others
	memory        int64         // bytes, now
}

// A sample is what one server did while it was measured.
type sample struct {
	load.Result

	elapsed       time.Duration
	cpu, storeCPU time.Duration
	generator     time.Duration // CPU of this program
	memory        int64
	others        float64 // cores
	allocations   uint64  // 0 where they are not known
}

// each is a share of d, in µs.
func (s *sample) each(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(s.Calls())
}

func (s *sample) rate() float64 { return float64(s.Calls()) / s.elapsed.Seconds() }

// A moment is what all meters show at one time.
type moment struct {
	reading

	at           time.Time
	own, machine time.Duration
}

func (c *contestant) look(ctx context.Context) (moment, error) {
	r, err := c.read(ctx)
	if err != nil {
		return moment{}, err
	}
	m, err := lookAround()
	m.reading = r
	return m, err
}

// lookAround looks at the meters of this program and of the machine.
func lookAround() (m moment, err error) {
	if m.own, err = meter.CPU(os.Getpid()); err != nil {
		return m, err
	}
	m.machine, err = meter.Machine()
	m.at = time.Now()
	return m, err
}

// others is the work since another moment that is neither of what is measured nor of this program, in cores.
func (m moment) others(before moment) float64 {
	of := func(m moment) time.Duration { return m.machine - m.own - m.cpu - m.storeCPU - m.besides }
	return max(0, (of(m)-of(before)).Seconds()/m.at.Sub(before.at).Seconds())
}

// measure loads a contestant for the time that warms it up and the time that counts.
func measure(ctx context.Context, c contestant, warm, length time.Duration) (*sample, error) {
	l, err := load.Start(ctx, c.plan)
	if err != nil {
		return nil, err
	}
	s := &sample{}
	err = wait(ctx, warm)
	if err == nil {
		err = s.count(ctx, c, l, length)
	}
	result, stopErr := l.Stop()
	s.Result = *result
	switch {
	case err != nil || stopErr != nil:
		return nil, errors.Join(err, stopErr)
	case s.Failed > 0:
		return nil, fmt.Errorf("%d of %d calls failed: %s", s.Failed, s.Calls(), s.Failure)
	case s.Calls() == 0:
		return nil, errors.New("no call was answered")
	}
	return s, nil
}

func (s *sample) count(ctx context.Context, c contestant, l *load.Load, length time.Duration) error {
	allocated, err := c.allocations(ctx)
	if err != nil {
		return err
	}
	before, err := c.look(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	l.Count(true)
	if err := wait(ctx, length); err != nil {
		return err
	}
	l.Count(false)
	s.elapsed = time.Since(began)
	after, err := c.look(ctx)
	if err != nil {
		return err
	}
	s.between(before, after)
	now, err := c.allocations(ctx)
	s.allocations = now - allocated
	return err
}

func (s *sample) between(before, after moment) {
	s.cpu, s.storeCPU = after.cpu-before.cpu, after.storeCPU-before.storeCPU
	s.generator, s.memory = after.own-before.own, after.memory
	s.others = after.others(before)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
