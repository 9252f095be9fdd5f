package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tierkeeper/tierkeeper/test/bench/load"
	"github.com/tierkeeper/tierkeeper/test/bench/meter"
	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// A session is one run of a command: how long and how often it measures, and what has become of that.
type session struct {
	rounds, keys  int
	seconds, warm float64
	patience      float64 // seconds
	despite       bool    // other work: rounds count all the same
	programs      servers.Programs

	out, progress io.Writer
	dir           string   // for all that is written, while it runs
	tooFew        []string // cases with too few rounds
}

// addFlags has the flags of all that is measured in rounds.
func (s *session) addFlags(flags *pflag.FlagSet) {
	s.addLoad(flags, 1, "time for each figure of a round")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds that make a figure; those that other work disturbs do not count, and are repeated as often at most")
	flags.Float64Var(&s.warm, "warm-seconds", 0.4, "time before it in which nothing is counted")
	flags.Float64Var(&s.patience, "patience-seconds", 20, "time for which a round waits for other work to end")
	flags.BoolVar(&s.despite, "despite-others", false, "count rounds although other work disturbs them: to try this program, not to judge")
}

// addLoad has the flags of whatever puts a load on the service.
func (s *session) addLoad(flags *pflag.FlagSet, seconds float64, what string) {
	flags.StringVar(&s.programs.Tierkeeper, "tierkeeper", "bin/tierkeeper", "Tierkeeper")
	redis, _ := exec.LookPath("redis-server") // Without it, what needs it is left out.
	flags.StringVar(&s.programs.Redis, "redis-server", redis, "Redis")
	flags.IntVar(&s.keys, "keys", 10_000, "API keys that send")
	flags.Float64Var(&s.seconds, "seconds", seconds, what)
}

func (s *session) check() error {
	if s.rounds < 1 || s.rounds > servers.MostTries {
		return fmt.Errorf("--rounds %d is not between 1 and %d", s.rounds, servers.MostTries)
	}
	if s.seconds <= 0 || s.warm < 0 || s.patience < 0 || s.keys < 1 {
		return errors.New("--seconds and --keys must be above 0, and --warm-seconds and --patience-seconds not below")
	}
	return nil
}

// disclaim says that figures are not worth judging by, where that was asked for.
func (s *session) disclaim() {
	if s.despite {
		fmt.Fprintln(s.out, "Rounds count although other work disturbed them (--despite-others): these figures judge nothing.")
	}
}

// run does the work of a command, in a directory that is there for so long.
func (s *session) run(cmd *cobra.Command, work func(context.Context) error) (err error) {
	s.out, s.progress = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := complete(&s.programs); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "tierkeeper-bench-"); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(s.dir) }()
	if err := work(cmd.Context()); err != nil {
		return err
	}
	if len(s.tooFew) > 0 {
		return &disturbedError{s.tooFew}
	}
	return nil
}

func (s *session) measure(ctx context.Context, c contestant) (*sample, error) {
	got, err := measure(ctx, c, duration(s.warm), duration(s.seconds))
	if err == nil && c.check != nil {
		err = c.check(got)
	}
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", c.name, err)
	}
	return got, nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// A disturbedError says what could not be judged because of other work.
type disturbedError struct{ cases []string }

// Error implements error.
func (e *disturbedError) Error() string {
	return fmt.Sprintf("no verdict: other work took %.2f of a core or more in too many rounds of %s; run again when the machine is quiet",
		busy, strings.Join(e.cases, "; "))
}

// A benchCase is one way to load all contestants.
type benchCase struct {
	how                      string
	kind                     servers.Kind // of subjects that send
	connections, outstanding int
	rate                     float64 // calls a second; 0: as many outstanding
	judged                   bool
}

const oneAtATime = "one at a time"

func (c benchCase) shape(p *load.Plan) {
	p.Connections, p.Outstanding, p.Rate = c.connections, c.outstanding, c.rate
}

// alternate measures all in turn, in each round in another order, until enough rounds count or twice as many are over.
func (s *session) alternate(ctx context.Context, what string, all []contestant) ([]round, error) {
	var kept []round
	for i := 0; i < 2*s.rounds && len(kept) < s.rounds; i++ {
		r, disturbance, err := s.round(ctx, i, all)
		if err != nil {
			return nil, err
		}
		if disturbance == "" {
			kept = append(kept, r)
			disturbance = "counts"
		}
		fmt.Fprintf(s.progress, "%s: round %d %s (%d of %d)\n", what, i+1, disturbance, len(kept), s.rounds)
	}
	return kept, nil
}

// awaitQuiet waits until other work ends, as far as there is patience for it.
func (s *session) awaitQuiet(ctx context.Context) error {
	for until := time.Now().Add(duration(s.patience)); !s.despite; {
		before, err := lookAround()
		if err != nil {
			return err
		}
		if err := wait(ctx, min(quietLook, time.Until(until))); err != nil {
			return err
		}
		after, err := lookAround()
		if err != nil {
			return err
		}
		if after.others(before) < busy || !time.Now().Before(until) {
			return nil
		}
	}
	return nil
}

// round is given up as soon as it is disturbed.
func (s *session) round(ctx context.Context, i int, all []contestant) (r round, disturbance string, err error) {
	if err := s.awaitQuiet(ctx); err != nil {
		return r, "", err
	}
	if r.calibration, err = meter.Calibrate(); err != nil {
		return r, "", err
	}
	r.samples = map[string]*sample{}
	for j := range all {
		c := all[(i+j)%len(all)]
		got, err := s.measure(ctx, c)
		if err != nil {
			return r, "", err
		}
		if got.others >= busy && !s.despite {
			return r, fmt.Sprintf("is dropped: other work took %.2f cores beside %s", got.others, c.name), nil
		}
		r.samples[c.name] = got
	}
	return r, "", nil
}

// quietLook is how long the machine is looked at to find whether it is quiet.
const quietLook = 500 * time.Millisecond
