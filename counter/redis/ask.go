package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/internal/pause"
)

//go:embed calls.lua
var callsSource string

//go:embed counters.lua
var countersSource string

var counters = newScript(countersSource)

// newScript makes one that answers several calls in one run: see calls.lua.
func newScript(source string) *rueidis.Lua { return rueidis.NewLuaScript(callsSource + source) }

// A question is one call of a script. One run of that makes several, which may be of many callers, and answers each.
type question struct {
	script  *rueidis.Lua
	keys    []string
	request string
	group   *group // of counters; nil: it takes from none
}

func (s *Store) question(g *group, request []byte) question {
	return question{script: s.script, keys: g.keys, request: rueidis.BinaryString(request), group: g}
}

// took reports whether the answer, which nobody may have read yet, says that something was taken.
func (q *question) took(answer string) bool {
	return q.group != nil && mode(q.request[0]) == take && q.group.fits(answer) && status(answer[0]) == admitted
}

// run asks the question alone, and again where a cluster is on the move and has done nothing: for half a second. Envoy
// waits for longer.
func (s *Store) run(ctx context.Context, q question) (string, error) {
	for wait := time.Millisecond; ; wait *= 2 {
		answers, err := answersTo(1, q.script.Exec(ctx, s.client, q.keys, []string{q.request}))
		if !moves(err) || wait > 256*time.Millisecond || !pause.For(ctx, wait) {
			if err != nil {
				return "", err
			}
			return answerOf(&answers[0])
		}
	}
}

// answersTo are those of a script to n questions, in their order. Each may be an error: see answerOf.
func answersTo(n int, result rueidis.RedisResult) ([]rueidis.RedisMessage, error) {
	answers, err := result.ToArray()
	if err == nil && len(answers) != n {
		err = fmt.Errorf("%w: it has %d parts for %d calls", errAnswer, len(answers), n)
	}
	return answers, err
}

func answerOf(m *rueidis.RedisMessage) (string, error) {
	answer, err := m.ToString()
	return answer, explain(err)
}

// moves reports whether a slot is on its way to another node and only part of the keys is there, or has no node. Redis has done
// nothing then.
func moves(err error) bool {
	e, said := rueidis.IsRedisErr(err)
	return said && (e.IsTryAgain() || e.IsClusterDown())
}

// ask returns the answer of the script, or fails as soon as ctx ends, whatever the connection does. The answer to a take that
// comes later is given back.
func (s *Store) ask(ctx context.Context, q question) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	c := calls.Get().(*call) //nolint:forcetypeassert // The pool holds nothing else.
	c.question = q
	p := s.pipeline.Load()
	if s.spread {
		go c.run(s) // In a batch it would wait for the slowest node.
	} else {
		p.send(s, c)
	}
	select {
	case <-c.answered:
	case <-ctx.Done():
		if c.over.CompareAndSwap(false, true) {
			// A batch that hangs must not hold up who comes when Redis answers again.
			s.pipeline.CompareAndSwap(p, new(pipeline))
			return "", ctx.Err()
		}
		<-c.answered
	}
	answer, err := c.answer, c.err
	*c = call{answered: c.answered}
	calls.Put(c)
	return answer, err
}

// A call is a question on its way. It is over when its answer is there, or when whoever asked has gone.
type call struct {
	question

	over     atomic.Bool
	answered chan struct{}
	answer   string
	err      error
}

var calls = sync.Pool{New: func() any { return &call{answered: make(chan struct{}, 1)} }}

// run sends the call alone. It does not end with the context of whoever asks: the answer would be lost.
func (c *call) run(s *Store) {
	answer, err := s.run(s.ctx, c.question)
	c.end(s, answer, err)
}

// end hands over the answer, or gives back what was taken for somebody who has gone.
func (c *call) end(s *Store, answer string, err error) {
	q := c.question
	c.answer, c.err = answer, err
	if c.over.CompareAndSwap(false, true) {
		c.answered <- struct{}{}
	} else if err == nil && q.took(answer) {
		go func() { _ = s.giveBack([]taken{{q, answer}}) }() // It tells of its trouble itself.
	}
}

// A taken is a take that was admitted.
type taken struct {
	question

	answer string
}

// giveBackInTime is giveBack, which goes on when ctx has ended.
func (s *Store) giveBackInTime(ctx context.Context, all []taken) error {
	if len(all) == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- s.giveBack(all) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveBack returns what was taken, whatever became of whoever took it.
func (s *Store) giveBack(all []taken) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	err := each(all, func(t *taken) error {
		_, err := s.run(ctx, s.question(t.group, t.group.undo(t.request, t.answer)))
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

// explain says what to do about an error that the script makes of what it finds, and tells it from one of the whole store.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if key, found := strings.CutPrefix(err.Error(), "LAYOUT "); found {
		return fmt.Errorf("%w: the value of key %s is not a counter of this layout, and was left as it is: find out who writes it, then delete it", counter.ErrUnreadable, key)
	}
	if strings.HasPrefix(err.Error(), "WRONGTYPE ") {
		return fmt.Errorf("%w: %w", counter.ErrUnreadable, err)
	}
	return err
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s the counters in Redis: %w", doing, err)
}
