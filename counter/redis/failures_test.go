package redis_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

var strict = counter.Rule{Max: 1, Window: time.Minute, Block: time.Minute}

func blockAt(t *testing.T, f *redis.Failures, s counter.Subject) counter.Block {
	t.Helper()
	for range strict.Max + 1 {
		if _, err := f.Fail(t.Context(), noon, s, strict); err != nil {
			t.Fatal(err)
		}
	}
	return counter.Block{Subject: s, Since: noon, Until: noon.Add(strict.Block), Failures: strict.Max + 1}
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
	want := blockAt(t, here, s)
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
	blockAt(t, here, kept)
	blockAt(t, here, lifted)
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
	blockAt(t, here, s)
	ticks <- noon
	eventually(t, "the block is read", func() bool { return blocked(t, there, s) })
}
