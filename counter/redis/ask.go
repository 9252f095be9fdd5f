package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

//go:embed counters.lua
var countersSource string

// Redis may have forgotten a script: then it is sent again.
var counters = rueidis.NewLuaScript(countersSource)

// A question is one run of a script.
type question struct {
	script *rueidis.Lua
	keys   []string
	args   []string
	group  *group // of counters; nil: it takes from none
}

func (g *group) question(request []byte) question {
	return question{counters, g.keys, []string{rueidis.BinaryString(request)}, g}
}

// ask returns the answer of the script, or fails as soon as ctx ends, whatever the connection does. The answer to a take that
// comes later is given back.
func (s *Store) ask(ctx context.Context, q question) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if ctx.Done() == nil {
		return s.run(ctx, q)
	}
	c := &call{answered: make(chan struct{})}
	go func() {
		c.answer, c.err = s.run(context.WithoutCancel(ctx), q)
		if c.end() {
			close(c.answered)
		} else if q.took(c.answer) {
			_ = s.giveBack(ctx, []taken{{q, c.answer}}) // It tells of its trouble itself.
		}
	}()
	select {
	case <-c.answered:
		return c.answer, c.err
	case <-ctx.Done():
		if c.end() {
			return "", ctx.Err()
		}
		<-c.answered
		return c.answer, c.err
	}
}

// A call ends once: by its answer, or because whoever called has gone.
type call struct {
	ended    atomic.Bool
	answered chan struct{}
	answer   string
	err      error
}

func (c *call) end() bool { return c.ended.CompareAndSwap(false, true) }

// took reports whether the answer says that something was taken.
func (q question) took(answer string) bool {
	return q.group != nil && mode(q.args[0][0]) == take && answer != "" && status(answer[0]) == admitted
}

func (s *Store) run(ctx context.Context, q question) (string, error) {
	answer, err := q.script.Exec(ctx, s.client, q.keys, q.args).ToString()
	return answer, explain(err)
}

// A taken is a take that was admitted.
type taken struct {
	question

	answer string
}

// giveBack returns what was taken, although ctx may have ended.
func (s *Store) giveBack(ctx context.Context, all []taken) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := each(all, func(t *taken) error {
		_, err := s.run(ctx, t.group.question(t.group.undo(t.args[0], t.answer)))
		return err
	})
	if err != nil {
		s.log.WarnContext(ctx, "could not give back what was taken for a request that is not served; it counts until its windows end", "error", err)
	}
	return wrap("giving back to", err)
}

// each calls do for all at once.
func each[T any](all []T, do func(*T) error) error {
	if len(all) == 1 {
		return do(&all[0])
	}
	errs := make([]error, len(all))
	var done sync.WaitGroup
	for i := range all {
		done.Go(func() { errs[i] = do(&all[i]) })
	}
	done.Wait()
	return errors.Join(errs...)
}

// explain says what to do about an error that the script makes of what it finds.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if key, found := strings.CutPrefix(err.Error(), "LAYOUT "); found {
		return fmt.Errorf("the value of key %s is not a counter of this layout, and was left as it is: find out who writes it, then delete it", key)
	}
	return err
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s the counters in Redis: %w", doing, err)
}
