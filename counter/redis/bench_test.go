package redis_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

var noon = time.Date(2024, time.February, 14, 12, 30, 30, 500_000_000, time.UTC)

// holder returns the limits of a request of holder n: all of its own, those of a model of its own, and those of a model group
// that everybody shares.
func holder(n, own, model, group int) []counter.Limit {
	windows := []counter.Window{counter.Minute, counter.Day, counter.Hour, counter.InUse}
	var limits []counter.Limit
	add := func(subject, entry string, count int, most int64) {
		for i := range count {
			w := windows[i%len(windows)]
			if count == 1 && entry == "" {
				w = counter.Minute
			}
			limits = append(limits, counter.Limit{Key: counter.NewKey(subject, subject+entry, fmt.Sprint(subject, entry, i)), Window: w, Max: most})
		}
	}
	add(fmt.Sprint("holder ", n), "", own, 1<<40)
	add(fmt.Sprint("holder ", n), "model", model, 1<<40)
	add("group", "", group, math.MaxInt64)
	return limits
}

var benches = []struct {
	name              string
	own, model, group int
}{
	{"4 limits of one entry", 4, 0, 0},
	{"4 limits of two entries and a group", 2, 1, 1},
	{"7 limits of two entries and a group", 4, 2, 1},
}

var leaseNumbers atomic.Uint64

func newLease() (l counter.LeaseID) {
	binary.BigEndian.PutUint64(l[:], leaseNumbers.Add(1))
	return l
}

// BenchmarkAcquire takes from the counters of 1,000 holders, with 64 goroutines, and reports the time of Redis for each call: that
// of its process, and that within the script.
func BenchmarkAcquire(b *testing.B) {
	each(b, func(*redis.Store, []counter.Limit, counter.LeaseID, time.Time) error { return nil })
}

// BenchmarkRequest settles as well: two of the charges were too high, and a slot is freed if there is one.
func BenchmarkRequest(b *testing.B) {
	each(b, func(s *redis.Store, limits []counter.Limit, lease counter.LeaseID, now time.Time) error {
		settlement := counter.Settlement{Lease: lease, Taken: now, Charges: make([]counter.Charge, len(limits))}
		for i, l := range limits {
			settlement.Charges[i] = counter.Charge{Key: l.Key, Window: l.Window, Charged: 1, Used: 1}
			if i == 0 || i == len(limits)-1 {
				settlement.Charges[i].Used = 0
			}
		}
		return s.Settle(b.Context(), now, settlement)
	})
}

func each(b *testing.B, then func(*redis.Store, []counter.Limit, counter.LeaseID, time.Time) error) {
	b.Helper()
	for _, bench := range benches {
		b.Run(bench.name, func(b *testing.B) {
			server := redistest.Start(b)
			s := open(b, redis.Options{Addresses: []string{server.Addr}})
			sets, limits := make([]counter.Set, 1000), make([][]counter.Limit, 1000)
			for i := range sets {
				limits[i] = holder(i, bench.own, bench.model, bench.group)
				sets[i] = s.Open(limits[i])
			}
			b.SetParallelism(32)
			b.ReportAllocs()
			before := usedBy(server)
			var turn atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				n := len(limits[0])
				hits, counts := slices.Repeat([]int64{1}, n), make([]counter.Count, n)
				for pb.Next() {
					i, lease := turn.Add(1), newLease()
					now, who := noon.Add(time.Duration(i)*100*time.Microsecond), i%int64(len(sets))
					ok, err := sets[who].Acquire(b.Context(), now, lease, now.Add(time.Second), hits, counts)
					if err == nil && ok {
						err = then(s, limits[who], lease, now)
					}
					if err != nil || !ok {
						b.Error(ok, err)
						return
					}
				}
			})
			b.StopTimer()
			used := usedBy(server)
			b.ReportMetric((used.process-before.process)*1e6/float64(b.N), "redis-µs/op")
			b.ReportMetric((used.script-before.script)/float64(b.N), "script-µs/op")
		})
	}
}

// A use is what a server has used of its time, in seconds, what it used for scripts, in microseconds, and how often it ran one.
type use struct {
	process, script float64
	runs            int
}

func usedBy(s *redistest.Server) (u use) {
	for line := range strings.Lines(s.Do("info", "everything")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_cpu_user", "used_cpu_sys":
			n, _ := strconv.ParseFloat(value, 64)
			u.process += n
		case "cmdstat_evalsha":
			_, _ = fmt.Sscanf(value, "calls=%d,usec=%f", &u.runs, &u.script)
		}
	}
	return u
}

// BenchmarkOneByOne is a request that waits for nobody else.
func BenchmarkOneByOne(b *testing.B) {
	s := open(b, redis.Options{Addresses: []string{redistest.Start(b).Addr}})
	set, hits, counts := s.Open(holder(1, 2, 1, 1)), []int64{1, 1, 1, 1}, make([]counter.Count, 4)
	for b.Loop() {
		if ok, err := set.Acquire(b.Context(), noon, newLease(), noon.Add(time.Second), hits, counts); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}
