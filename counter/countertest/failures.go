package countertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
)

// RunFailures tests what open returns, which must be empty. As with Run, no test waits, and for none does time go back by a
// minute.
func RunFailures(t *testing.T, open func(*testing.T) counter.Failures) {
	t.Helper()
	for name, test := range map[string]func(*offence){
		"OneMoreThanMaxBlocks":         oneMoreThanMaxBlocks,
		"TheWindowIsExact":             theWindowIsExact,
		"TheWindowSlides":              theWindowSlides,
		"ABlockEnds":                   aBlockEnds,
		"DuringABlockNothingCounts":    duringABlockNothingCounts,
		"SubjectsAreApart":             subjectsAreApart,
		"ALiftedBlockIsLifted":         aLiftedBlockIsLifted,
		"BlocksListsThoseInForce":      blocksListsThoseInForce,
		"FailuresOnlyMoveForward":      failuresOnlyMoveForward,
		"ARuleMayChange":               aRuleMayChange,
		"FailuresAgreeWithTheModel":    failuresAgreeWithTheModel,
		"ACrowdIsBlockedOnceAndAtOnce": aCrowdIsBlockedOnceAndAtOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&offence{T: t, open: open, failures: open(t)})
		})
	}
}

// An offence is one test. Its methods fail it when the store does.
type offence struct {
	*testing.T
	open     func(*testing.T) counter.Failures
	failures counter.Failures
}

// usual is the rule of the examples.
var usual = counter.Rule{Max: 20, Window: 30 * time.Second, Block: time.Minute}

// offenders are numbered through the whole process.
var offenders atomic.Uint64

func newSubject() (s counter.Subject) {
	binary.BigEndian.PutUint64(s[len(s)-8:], offenders.Add(1))
	return s
}

func (f *offence) fail(now time.Time, s counter.Subject, r counter.Rule, want counter.Outcome) {
	f.Helper()
	got, err := f.failures.Fail(f.Context(), now, s, r)
	if err != nil {
		f.Fatalf("Fail: %v", err)
	}
	if got != want {
		f.Fatalf("at %v a failure has the outcome %d, want %d", now, got, want)
	}
}

// block makes the subject fail until it is blocked, all at one time.
func (f *offence) block(now time.Time, s counter.Subject, r counter.Rule) counter.Block {
	f.Helper()
	for range r.Max {
		f.fail(now, s, r, counter.Counted)
	}
	f.fail(now, s, r, counter.Blocked)
	return counter.Block{Subject: s, Since: now, Until: now.Add(r.Block), Failures: r.Max + 1}
}

// wantBlock checks a subject; nil is for one that is not blocked.
func (f *offence) wantBlock(now time.Time, s counter.Subject, want *counter.Block) {
	f.Helper()
	got, blocked, err := f.failures.BlockOf(f.Context(), now, s)
	if err != nil {
		f.Fatalf("BlockOf: %v", err)
	}
	if blocked != (want != nil) {
		f.Fatalf("at %v the subject is blocked: %t, want %t", now, blocked, want != nil)
	}
	if want == nil {
		return
	}
	if diff := cmp.Diff(*want, got); diff != "" {
		f.Fatalf("block (-want +got):\n%s", diff)
	}
	if !f.failures.Any(now) {
		f.Fatalf("at %v a block is in force, and Any says none", now)
	}
}

func oneMoreThanMaxBlocks(f *offence) {
	for _, most := range []int{1, 2, 20, 1000} {
		s, r := newSubject(), usual
		r.Max = most
		for range most {
			f.fail(noon, s, r, counter.Counted)
			f.wantBlock(noon, s, nil)
		}
		f.fail(noon, s, r, counter.Blocked)
		f.wantBlock(noon, s, &counter.Block{Subject: s, Since: noon, Until: noon.Add(r.Block), Failures: most + 1})
	}
}

func theWindowIsExact(f *offence) {
	for span, want := range map[time.Duration]counter.Outcome{
		usual.Window:                      counter.Blocked,
		usual.Window + counter.Resolution: counter.Counted,
	} {
		s := newSubject()
		f.fail(noon, s, usual, counter.Counted)
		for i := range usual.Max - 1 {
			f.fail(noon.Add(time.Duration(i)*time.Millisecond), s, usual, counter.Counted)
		}
		f.fail(noon.Add(span), s, usual, want)
	}
}

func theWindowSlides(f *offence) {
	s, now := newSubject(), noon
	for range 10 * usual.Max { // 20 in any 30 seconds, and no more
		f.fail(now, s, usual, counter.Counted)
		now = now.Add(usual.Window/time.Duration(usual.Max) + counter.Resolution)
	}
	f.fail(now, s, usual, counter.Counted)
	f.fail(now, s, usual, counter.Blocked)
}

func aBlockEnds(f *offence) {
	s := newSubject()
	if f.failures.Any(noon) {
		f.Fatal("nobody is blocked, and Any says that some are")
	}
	block := f.block(noon, s, usual)
	f.wantBlock(block.Until.Add(-1), s, &block)
	f.wantBlock(block.Until, s, nil)
	f.block(block.Until, s, usual) // as if nothing had been
}

func duringABlockNothingCounts(f *offence) {
	s := newSubject()
	block := f.block(noon, s, usual)
	for range 5 * usual.Max {
		f.fail(block.Until.Add(-1), s, usual, counter.Ignored)
	}
	f.wantBlock(block.Until.Add(-1), s, &block)
	for range usual.Max {
		f.fail(block.Until, s, usual, counter.Counted)
	}
	f.wantBlock(block.Until, s, nil)
}

func subjectsAreApart(f *offence) {
	a, b := newSubject(), newSubject()
	block := f.block(noon, a, usual)
	f.wantBlock(noon, b, nil)
	f.wantBlock(noon, a, &block)
	f.block(noon, b, usual)
}

func aLiftedBlockIsLifted(f *offence) {
	lift := func(now time.Time, s counter.Subject, want bool) {
		f.Helper()
		lifted, err := f.failures.Lift(f.Context(), now, s)
		if err != nil {
			f.Fatalf("Lift: %v", err)
		}
		if lifted != want {
			f.Fatalf("lifted: %t, want %t", lifted, want)
		}
	}
	s, other := newSubject(), newSubject()
	lift(noon, s, false)
	f.fail(noon, s, usual, counter.Counted)
	lift(noon, s, false)
	for range usual.Max - 1 {
		f.fail(noon, s, usual, counter.Counted)
	}
	f.fail(noon, s, usual, counter.Blocked)
	block := f.block(noon, other, usual)
	lift(noon.Add(time.Second), s, true)
	f.wantBlock(noon.Add(time.Second), s, nil)
	f.wantBlock(noon.Add(time.Second), other, &block)
	lift(noon.Add(time.Second), s, false)
	f.block(noon.Add(time.Second), s, usual)
	lift(block.Until, other, false)
}

func blocksListsThoseInForce(f *offence) {
	long, free := usual, newSubject()
	long.Block *= 2
	first := f.block(noon, newSubject(), usual)
	second := f.block(noon, newSubject(), long)
	f.fail(noon, free, usual, counter.Counted)
	f.wantBlocks(first.Until.Add(-1), first, second)
	f.wantBlocks(first.Until, second)
	f.wantBlocks(second.Until)
}

func (f *offence) wantBlocks(now time.Time, want ...counter.Block) {
	f.Helper()
	got, err := f.failures.Blocks(f.Context(), now)
	if err != nil {
		f.Fatalf("Blocks: %v", err)
	}
	bySubject := func(a, b counter.Block) int { return bytes.Compare(a.Subject[:], b.Subject[:]) }
	slices.SortFunc(got, bySubject)
	slices.SortFunc(want, bySubject)
	if diff := cmp.Diff(want, got); diff != "" {
		f.Fatalf("blocks at %v (-want +got):\n%s", now, diff)
	}
}

func failuresOnlyMoveForward(f *offence) {
	s := newSubject()
	f.fail(noon, s, usual, counter.Counted)
	for range usual.Max - 1 {
		f.fail(noon.Add(-40*time.Second), s, usual, counter.Counted)
	}
	f.fail(noon.Add(-40*time.Second), s, usual, counter.Blocked)
	f.wantBlock(noon, s, &counter.Block{Subject: s, Since: noon, Until: noon.Add(usual.Block), Failures: usual.Max + 1})
}

func aRuleMayChange(f *offence) {
	s, lower, higher := newSubject(), usual, usual
	lower.Max, higher.Max = 5, 25
	for range usual.Max {
		f.fail(noon, s, usual, counter.Counted)
	}
	f.fail(noon, s, higher, counter.Counted)
	f.fail(noon, s, lower, counter.Blocked)
}

// failuresModel is the promise in a few words: all failures since the last block, and nothing ever forgotten.
type failuresModel struct {
	failed map[counter.Subject][]time.Time
	blocks map[counter.Subject]counter.Block
}

func (m *failuresModel) fail(now time.Time, s counter.Subject, r counter.Rule) counter.Outcome {
	if n := len(m.failed[s]); n > 0 {
		now = later(now, m.failed[s][n-1])
	}
	if now.Before(m.blocks[s].Until) {
		return counter.Ignored
	}
	m.failed[s] = append(m.failed[s], now)
	within := 0
	for _, t := range m.failed[s] {
		if now.Sub(t) <= r.Window {
			within++
		}
	}
	if within <= r.Max {
		return counter.Counted
	}
	m.blocks[s], m.failed[s] = counter.Block{Subject: s, Since: now, Until: now.Add(r.Block), Failures: within}, nil
	return counter.Blocked
}

func failuresAgreeWithTheModel(f *offence) {
	rapid.Check(f.T, func(t *rapid.T) {
		g := &offence{T: f.T, failures: f.open(f.T)}
		m := failuresModel{map[counter.Subject][]time.Time{}, map[counter.Subject]counter.Block{}}
		now := noon
		subjects := []counter.Subject{newSubject(), newSubject(), newSubject()}
		rules := map[counter.Subject]counter.Rule{}
		for _, s := range subjects {
			rules[s] = counter.Rule{
				Max:    rapid.IntRange(1, 5).Draw(t, "max"),
				Window: time.Duration(rapid.IntRange(1, 20).Draw(t, "window")) * time.Second,
				Block:  time.Duration(rapid.IntRange(1, 20).Draw(t, "block")) * time.Second,
			}
		}
		subject := rapid.SampledFrom(subjects)
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "tenths")) * 100 * time.Millisecond)
			},
			"fail": func(t *rapid.T) {
				s := subject.Draw(t, "subject")
				at := now.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "late")) * time.Millisecond)
				got, err := g.failures.Fail(f.Context(), at, s, rules[s])
				check(t, "Fail", err)
				if want := m.fail(at, s, rules[s]); got != want {
					t.Fatalf("at %v a failure has the outcome %d, want %d", at, got, want)
				}
			},
			"lift": func(t *rapid.T) {
				s := subject.Draw(t, "subject")
				got, err := g.failures.Lift(f.Context(), now, s)
				check(t, "Lift", err)
				if want := now.Before(m.blocks[s].Until); got != want {
					t.Fatalf("lifted: %t, want %t", got, want)
				}
				if got {
					delete(m.blocks, s)
				}
			},
			"": func(t *rapid.T) {
				for _, s := range subjects {
					got, blocked, err := g.failures.BlockOf(f.Context(), now, s)
					check(t, "BlockOf", err)
					want := m.blocks[s]
					if !now.Before(want.Until) {
						want = counter.Block{}
					}
					if diff := cmp.Diff(want, got); diff != "" || blocked != (want.Failures > 0) {
						t.Fatalf("at %v blocked: %t (-want +got):\n%s", now, blocked, diff)
					}
				}
			},
		})
	})
}

// Of a crowd that fails at one time, as many are put up with as the rule says, one leads to the block, and all others come
// during it.
func aCrowdIsBlockedOnceAndAtOnce(f *offence) {
	s := newSubject()
	outcomes := make([]counter.Outcome, crowd)
	errs := make([]error, crowd)
	start := make(chan struct{})
	var done sync.WaitGroup
	for i := range crowd {
		done.Go(func() {
			<-start
			outcomes[i], errs[i] = f.failures.Fail(context.WithoutCancel(f.Context()), noon, s, usual)
		})
	}
	close(start)
	done.Wait()
	var got [counter.Blocked + 1]int
	for i, outcome := range outcomes {
		if errs[i] != nil {
			f.Fatalf("Fail: %v", errs[i])
		}
		got[outcome]++
	}
	want := [...]int{counter.Ignored: crowd - usual.Max - 1, counter.Counted: usual.Max, counter.Blocked: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		f.Fatalf("outcomes (-want +got):\n%s", diff)
	}
}
