package redis_test

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

var strict = counter.Rule{Max: 1, Window: time.Minute, Block: time.Minute}

func blockAt(t *testing.T, f *redis.Failures, now time.Time, s counter.Subject) counter.Block {
	t.Helper()
	for range strict.Max + 1 {
		if _, err := f.Fail(t.Context(), now, s, strict); err != nil {
			t.Fatal(err)
		}
	}
	return counter.Block{Subject: s, Since: now, Until: now.Add(strict.Block), Failures: strict.Max + 1}
}

func blocked(t *testing.T, f *redis.Failures, s counter.Subject) bool {
	t.Helper()
	_, yes, _ := f.BlockOf(t.Context(), noon, s)
	return yes
}

func TestOtherProcessesHearOfBlocks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	here, there := open(t, redis.Options{Addresses: []string{server.Addr}}).Failures(), open(t, redis.Options{Addresses: []string{server.Addr}}).Failures()
	go there.Follow(t.Context(), nil)
	eventually(t, "the other process listens", func() bool { return server.Do("pubsub", "numpat") == "0" && server.Do("pubsub", "channels") != "" })

	s := counter.Subject{1}
	want := blockAt(t, here, noon, s)
	eventually(t, "the other process knows the block", func() bool { return blocked(t, there, s) })
	if got, _, _ := there.BlockOf(t.Context(), noon, s); !cmp.Equal(want, got) {
		t.Errorf("block (-want +got):\n%s", cmp.Diff(want, got))
	}
	if lifted, err := here.Lift(t.Context(), noon, s); !lifted || err != nil {
		t.Fatal(lifted, err)
	}
	eventually(t, "the other process knows that the block is lifted", func() bool { return !blocked(t, there, s) })
}

func TestBlocksThatNobodyToldOfAreRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	here, there := open(t, redis.Options{Addresses: []string{server.Addr}}).Failures(), open(t, redis.Options{Addresses: []string{server.Addr}}).Failures()
	kept, lifted := counter.Subject{1}, counter.Subject{2}
	blockAt(t, here, noon, kept)
	blockAt(t, here, noon, lifted)
	refresh := func() {
		t.Helper()
		if err := there.Refresh(t.Context(), noon); err != nil {
			t.Fatal(err)
		}
	}
	refresh()
	if !blocked(t, there, kept) || !blocked(t, there, lifted) {
		t.Error("a block that was read is not in force")
	}
	if _, err := here.Lift(t.Context(), noon, lifted); err != nil {
		t.Fatal(err)
	}
	refresh()
	if !blocked(t, there, kept) || blocked(t, there, lifted) || !there.Any(noon) || there.Any(noon.Add(strict.Block)) {
		t.Error("what was read is not what is in force")
	}
}

// Follow reads all blocks at each tick, and listens again where that ended.
func TestTicksMakeUpForLostMessages(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	here, there := open(t, redis.Options{Addresses: []string{server.Addr}}).Failures(), open(t, redis.Options{Addresses: []string{server.Addr}}).Failures()
	server.Do("acl", "setuser", "default", "resetchannels")
	ticks := make(chan time.Time)
	go there.Follow(t.Context(), ticks)
	s := counter.Subject{1}
	server.Do("acl", "setuser", "default", "allchannels")
	blockAt(t, here, noon, s)
	ticks <- noon
	eventually(t, "the block is read", func() bool { return blocked(t, there, s) })
}

// TestAWrongClockBlocksOnlyItself has a replica that is a day ahead block a subject, and another that another has blocked by the right
// time.
func TestAWrongClockBlocksOnlyItself(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	right, wrong := open(t, redis.Options{Addresses: []string{server.Addr}}).Failures(), open(t, redis.Options{Addresses: []string{server.Addr}}).Failures()
	go right.Follow(t.Context(), nil)
	eventually(t, "the right one listens", func() bool { return server.Do("pubsub", "channels") != "" })
	seconds, _ := strconv.ParseInt(strings.Fields(server.Do("time"))[0], 10, 64)
	now := time.Unix(seconds, 0).UTC()
	ahead := now.AddDate(0, 0, 1)
	isBlocked := func(s counter.Subject) bool {
		_, yes, _ := right.BlockOf(t.Context(), now, s)
		return yes
	}
	refresh := func(f *redis.Failures, now time.Time) []counter.Block {
		t.Helper()
		blocks, err := f.Blocks(t.Context(), now)
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}

	s, other := counter.Subject{1}, counter.Subject{2}
	want := blockAt(t, right, now, other)
	blockAt(t, wrong, ahead, s)
	eventually(t, "the right one hears of the block", func() bool { return right.Any(ahead) })
	if isBlocked(s) {
		t.Error("a block that begins in a day is in force when it is told of")
	}
	if diff := cmp.Diff([]counter.Block{want}, refresh(right, now)); diff != "" {
		t.Errorf("blocks that are read (-want +got):\n%s", diff)
	}
	if blockAt(t, right, now, s); !isBlocked(s) {
		t.Error("failures by the right time do not count beside a block of the future")
	}

	for key := range strings.FieldsSeq(server.Do("keys", "*failures*")) {
		if !strings.HasSuffix(key, ":blocks") {
			server.Do("del", key) // as its time comes before that of the block
		}
	}
	if lifted, err := right.Lift(t.Context(), now, s); !lifted || err != nil {
		t.Errorf("lifted: %t, %v", lifted, err)
	}
	if got := refresh(wrong, ahead); len(got) > 0 {
		t.Errorf("after it is lifted these blocks are in force: %v", got)
	}
}

// TestAllBlocksAreReadHoweverManyAndWhateverIsAmongThem has more than are read at once end in the same microsecond.
func TestAllBlocksAreReadHoweverManyAndWhateverIsAmongThem(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var log strings.Builder
	f := open(t, redis.Options{Addresses: []string{server.Addr}, Log: slog.New(slog.NewTextHandler(&log, nil))}).Failures()
	const many = 1500
	since, until := noon.UnixMicro(), noon.Add(time.Minute).UnixMicro()
	server.Do("eval", `
		for i = 1, ARGV[1] do
			local ends = ARGV[3] + math.max(i - 1200, 0)
			redis.call('ZADD', KEYS[1], ends, struct.pack('<I4', i) .. string.rep('\0', 21) .. struct.pack('<I8I8I4', ARGV[2], ends, 2))
		end
		redis.call('ZADD', KEYS[1], ARGV[3] + 5, 'garbage', '+inf', 'more')
	`, "1", "tk1:{failures}:blocks", strconv.Itoa(many), strconv.FormatInt(since, 10), strconv.FormatInt(until, 10))
	for range 3 {
		blocks, err := f.Blocks(t.Context(), noon)
		if err != nil || len(blocks) != many {
			t.Fatalf("%d blocks are in force (%v), want %d", len(blocks), err, many)
		}
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "tk1:{failures}:blocks") {
		t.Errorf("the log is %q, want one line that names the key", got)
	}
	s := counter.Subject{1, 1, 1, 1, 1}
	if blockAt(t, f, noon, s); !blocked(t, f, s) {
		t.Error("a block that is made beside others and what is none is not in force")
	}
}

func TestBlocksOfAnotherTypeAreAnErrorThatChangesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := open(t, redis.Options{Addresses: []string{server.Addr}}).Failures()
	const key = "tk1:{failures}:blocks"
	server.Do("rpush", key, "x")
	s := counter.Subject{1}
	if outcome, err := f.Fail(t.Context(), noon, s, strict); outcome != counter.Counted || err != nil {
		t.Fatalf("a failure that blocks nobody: %v, %v", outcome, err)
	}
	_, err := f.Fail(t.Context(), noon, s, strict)
	_, lift := f.Lift(t.Context(), noon, s)
	for call, err := range map[string]error{"Fail": err, "Lift": lift, "Refresh": f.Refresh(t.Context(), noon)} {
		if !errors.Is(err, counter.ErrUnreadable) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: the error is %v, want one that names the key %s", call, err, key)
		}
	}
	server.Do("del", key)
	if outcome, err := f.Fail(t.Context(), noon, s, strict); outcome != counter.Blocked || err != nil {
		t.Errorf("the failure that blocks: %v, %v; it must not have changed anything before", outcome, err)
	}
}
