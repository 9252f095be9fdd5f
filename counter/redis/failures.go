package redis

import (
	"context"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/counter"
)

// RefreshEvery is how often all blocks should be read anew: see [Failures.Follow].
const RefreshEvery = 5 * time.Second

//go:embed failures.lua
var failuresSource string

var failures = newScript(failuresSource)

// Failures counts failures in Redis, and keeps the blocks in force in memory as well, so that no request waits to learn that it
// is not blocked. Use Store.Failures to make one.
//
// What this process blocks or lifts it knows at once, and what another does when the message arrives, or with the next Refresh.
// In a cluster all failures have one place, so that a block and the list of blocks are changed at once.
type Failures struct {
	store *Store
	view  view
	tell  time.Time // again of what is no block
}

var _ counter.Failures = (*Failures)(nil)

// Failures returns one that knows no block yet: see [Failures.Refresh] and [Failures.Follow].
func (s *Store) Failures() *Failures {
	f := &Failures{store: s}
	f.view.blocks = map[counter.Subject]counter.Block{}
	return f
}

// Any implements [counter.Failures].
func (f *Failures) Any(now time.Time) bool { return f.view.any(now) }

// BlockOf implements [counter.Failures]. It does not fail.
func (f *Failures) BlockOf(_ context.Context, now time.Time, s counter.Subject) (counter.Block, bool, error) {
	b, blocked := f.view.blockOf(now, s)
	return b, blocked, nil
}

// The modes of the script.
const (
	fail byte = iota + 1
	lift
)

// Fail implements [counter.Failures].
func (f *Failures) Fail(ctx context.Context, now time.Time, s counter.Subject, r counter.Rule) (counter.Outcome, error) {
	answer, err := f.ask(ctx, fail, now, s, r)
	if err == nil && (answer == "" || answer[0] > byte(counter.Blocked)) {
		err = errAnswer
	}
	if err != nil {
		return counter.Ignored, fmt.Errorf("counting a failure in Redis: %w", err)
	}
	outcome := counter.Outcome(answer[0])
	if outcome == counter.Counted {
		return outcome, nil
	}
	b, err := readBlock(answer[1:])
	if err != nil {
		return counter.Ignored, fmt.Errorf("counting a failure in Redis: %w", err)
	}
	f.view.learn(b)
	return outcome, nil
}

// Lift implements [counter.Failures].
func (f *Failures) Lift(ctx context.Context, now time.Time, s counter.Subject) (bool, error) {
	answer, err := f.ask(ctx, lift, now, s, counter.Rule{})
	if err != nil {
		return false, fmt.Errorf("lifting a block in Redis: %w", err)
	}
	f.view.forget(s)
	return answer == string(rune(counter.Counted)), nil
}

func (f *Failures) ask(ctx context.Context, mode byte, now time.Time, s counter.Subject, r counter.Rule) (string, error) {
	b := append(make([]byte, 0, 64), mode)
	b = appendNumber(appendNumber(appendNumber(b, micros(now)), r.Window.Microseconds()), r.Block.Microseconds())
	b = appendNumber(b, int64(r.Max))[:len(b)+4]
	b = append(append(b, s[:]...), f.channel()...)
	value := f.root() + hex.EncodeToString(s[:])
	return f.store.ask(ctx, question{
		script: failures, keys: []string{value, f.blocksKey()}, request: rueidis.BinaryString(b),
	})
}

// root begins all keys of failures. The braces give them one slot of a cluster.
func (f *Failures) root() string { return f.store.prefix + layout + ":{failures}:" }

func (f *Failures) blocksKey() string { return f.root() + "blocks" }

func (f *Failures) channel() string { return f.root() + "told" }

// blockSize is that of a block in an answer, a message and the set of all.
const blockSize = len(counter.Subject{}) + 8 + 8 + 4

// readBlock reads what the script writes.
func readBlock(s string) (counter.Block, error) {
	if len(s) != blockSize {
		return counter.Block{}, fmt.Errorf("%w: it has %d bytes for a block", errAnswer, len(s))
	}
	var b counter.Block
	rest := s[copy(b.Subject[:], s):]
	b.Since, b.Until = time.UnixMicro(number(rest)).UTC(), time.UnixMicro(number(rest[8:])).UTC()
	for i, c := range []byte(rest[16:]) {
		b.Failures |= int(c) << (8 * i)
	}
	return b, nil
}

// Blocks implements [counter.Failures]. It asks Redis, and then knows what it said.
func (f *Failures) Blocks(ctx context.Context, now time.Time) ([]counter.Block, error) {
	return f.view.refresh(now, func() ([]counter.Block, error) { return f.read(ctx, now) })
}

// Refresh reads all blocks. Call it before the first request is served.
func (f *Failures) Refresh(ctx context.Context, now time.Time) error {
	_, err := f.Blocks(ctx, now)
	return err
}

// blocksAtOnce bounds how long Redis does nothing else: reading so many takes it 0.2 ms.
const blocksAtOnce = 500

// read reads some at a time. A block that is made or lifted meanwhile is told of.
func (f *Failures) read(ctx context.Context, now time.Time) ([]counter.Block, error) {
	var all []counter.Block
	strange := 0
	from := place{after: "(" + strconv.FormatInt(micros(now), 10)}
	for {
		some, err := f.readFrom(ctx, from)
		if err != nil {
			return nil, fmt.Errorf("reading the blocks in Redis, in key %s: %w", f.blocksKey(), explain(err))
		}
		for _, m := range some {
			block, err := readBlock(m.Member)
			if err != nil {
				strange++
				continue
			}
			all = append(all, block)
		}
		if len(some) < blocksAtOnce {
			f.tellOfStrange(ctx, now, strange)
			return all, nil
		}
		from = from.behind(some)
	}
}

func (f *Failures) readFrom(ctx context.Context, from place) ([]rueidis.ZScore, error) {
	command := f.store.client.B().Zrangebyscore().Key(f.blocksKey()).Min(from.after).Max("+inf").Withscores().Limit(from.skip, blocksAtOnce).Build()
	return f.store.client.Do(ctx, command).AsZScores()
}

// A place is one among all blocks, by their ends. Many may end at once: skip is how many of those that end first are before it.
type place struct {
	after string
	skip  int64
}

// behind is the place behind what was read from p, which must not be empty.
func (p place) behind(read []rueidis.ZScore) place {
	last := read[len(read)-1].Score
	next := place{after: strconv.FormatFloat(last, 'f', -1, 64)}
	if next.after == p.after {
		next.skip = p.skip
	}
	for _, m := range read {
		if m.Score == last {
			next.skip++
		}
	}
	return next
}

// tellEvery is how often what cannot be read is told of, which is found at each refresh.
const tellEvery = time.Minute

// tellOfStrange is called by one refresh at a time.
func (f *Failures) tellOfStrange(ctx context.Context, now time.Time, n int) {
	if n > 0 && !now.Before(f.tell) {
		f.tell = now.Add(tellEvery)
		f.store.log.WarnContext(ctx, "Redis has among the blocks what is none, and it is passed over: find out who writes it, then remove it", "key", f.blocksKey(), "members", n)
	}
}

// Follow hears of the blocks that others make and lift, until ctx ends, and reads all of them at each tick: a message that was
// sent while a connection was lost does not come again. Ticks carry the time, and should come at RefreshEvery.
func (f *Failures) Follow(ctx context.Context, ticks <-chan time.Time) {
	ended := f.listen(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks:
			if err := f.refreshInTime(ctx, now); err != nil && ctx.Err() == nil {
				f.store.log.WarnContext(ctx, "blocks that other replicas made may be unknown here", "error", err)
			}
			select {
			case <-ended:
				ended = f.listen(ctx)
			default:
			}
		}
	}
}

func (f *Failures) refreshInTime(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, RefreshEvery)
	defer cancel()
	return f.Refresh(ctx, now)
}

// listen subscribes, and closes the channel that it returns when that has ended.
func (f *Failures) listen(ctx context.Context) <-chan struct{} {
	client, ended := f.store.client, make(chan struct{})
	go func() {
		defer close(ended)
		err := client.Receive(ctx, client.B().Subscribe().Channel(f.channel()).Build(), func(m rueidis.PubSubMessage) { f.hear(m.Message) })
		if err != nil && ctx.Err() == nil {
			f.store.log.WarnContext(ctx, "Redis does not tell of blocks that other replicas make: they are only read now and then", "error", err)
		}
	}()
	return ended
}

// hear takes in a message. One that nobody understands may be of a later release.
func (f *Failures) hear(message string) {
	if message == "" {
		return
	}
	b, err := readBlock(message[1:])
	switch {
	case err != nil:
	case message[0] == byte(counter.Blocked):
		f.view.learn(b)
	case message[0] == byte(counter.Ignored):
		f.view.forget(b.Subject)
	}
}
