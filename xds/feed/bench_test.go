package feed_test

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// many is how many keys a large platform has.
func many() int {
	if testing.Short() {
		return 5000
	}
	return 100_000
}

// heap is what is alive.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first has let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkPublish makes a Table that differs in one quota what clients are told, until one of them has it in force. Compiling
// is left out.
func BenchmarkPublish(b *testing.B) {
	bell := newBell()
	o := startAt(b, bell, somewhere(b))
	var tables [2]*policy.Table
	for i, state := range []v1alpha1.DesiredState{v1alpha1.DesiredStateActive, v1alpha1.DesiredStateSuspended} {
		in := customers(many())
		in.Quotas[1].Spec.DesiredState = state
		tables[i] = compile(in)
	}
	mark := uint64(0)
	publish := func(i int) {
		mark++
		o.Publish(tables[i%2], mark)
	}
	follow(b, bell, o.config("service-0", filepath.Join(b.TempDir(), "policy.db")))
	b.Run("all", func(b *testing.B) {
		var fresh *feed.Server
		before := heap()
		for b.Loop() {
			fresh = feed.NewServer(nil)
			fresh.Publish(tables[0], 1)
		}
		b.ReportMetric(float64(heap()-before)/float64(many()), "B/key")
		runtime.KeepAlive(fresh)
	})
	publish(0)
	o.waitFor(b, "service-0", 1)
	b.Run("one", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			publish(i)
		}
	})
	o.waitFor(b, "service-0", mark)
	b.Run("one in force", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			publish(i)
			o.waitFor(b, "service-0", mark)
		}
	})
	b.Run("none", func(b *testing.B) {
		publish(0)
		for b.Loop() {
			mark++
			o.Publish(tables[0], mark)
		}
	})
}

// BenchmarkFollow loads everything into a new client, and says what it keeps of each key.
func BenchmarkFollow(b *testing.B) {
	bell := newBell()
	o := startAt(b, bell, somewhere(b))
	o.Publish(compile(customers(many())), 1)
	before := heap()
	for b.Loop() {
		f := follow(b, bell, o.config("service-0", ""))
		o.waitFor(b, "service-0", 1)
		o.told()
		b.ReportMetric(float64(heap()-before)/float64(many()), "B/key")
		f.stop()
		bell.wait(b, "it is gone", func() bool { return len(o.Clients()) == 0 })
	}
}

// BenchmarkRestart starts a client with everything in its file.
func BenchmarkRestart(b *testing.B) {
	bell := newBell()
	o := startAt(b, bell, somewhere(b))
	o.Publish(compile(customers(many())), 1)
	c := o.config("service-0", filepath.Join(b.TempDir(), "policy.db"))
	f := follow(b, bell, c)
	bell.wait(b, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	f.stop()
	for b.Loop() {
		f := follow(b, bell, c)
		bell.wait(b, "a table is in force", func() bool { return f.table() != nil })
		o.waitFor(b, "service-0", 1)
		f.stop()
		bell.wait(b, "it is gone", func() bool { return len(o.Clients()) == 0 })
	}
}
