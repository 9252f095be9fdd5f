package bench

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tierkeeper/tierkeeper/test/bench/calls"
)

// A closed loop: each caller sends its next request when it has the answer to the last.
const (
	connections = 4
	outstanding = 64
)

const model = calls.Model

func apiKey(i int) string { return calls.APIKey("holder", i) }

// A load sends requests to one server.
type load struct {
	server   *process
	clients  []rlsv3.RateLimitServiceClient
	requests []*rlsv3.RateLimitRequest
}

func newLoad(tb testing.TB, server *process) *load {
	tb.Helper()
	l := &load{server: server}
	for range connections {
		conn, err := grpc.NewClient(server.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
		l.clients = append(l.clients, rlsv3.NewRateLimitServiceClient(conn))
	}
	for key := range keys {
		l.requests = append(l.requests, calls.Reserve(apiKey(key), key))
	}
	return l
}

// ask sends the request of a key, which must be admitted.
func (l *load) ask(tb testing.TB, client, key int) *rlsv3.RateLimitResponse {
	answer, err := l.clients[client].ShouldRateLimit(tb.Context(), l.requests[key])
	if err != nil {
		tb.Errorf("calling: %v", err)
		return nil
	}
	if answer.GetOverallCode() != rlsv3.RateLimitResponse_OK {
		tb.Errorf("a request was refused: %v", answer)
		return nil
	}
	return answer
}

// callers runs f for each caller at once.
func callers(f func(caller int)) {
	var all sync.WaitGroup
	for caller := range outstanding {
		all.Go(func() { f(caller) })
	}
	all.Wait()
}

// touchAllKeys makes the server find the limits of every key, which it does once.
func (l *load) touchAllKeys(tb testing.TB) {
	tb.Helper()
	callers(func(caller int) {
		for key := caller; key < keys; key += outstanding {
			if l.ask(tb, caller%connections, key) == nil {
				return
			}
		}
	})
	if tb.Failed() {
		tb.FailNow()
	}
}

// A sample is what one server did while it was measured.
type sample struct {
	calls       int64
	elapsed     time.Duration
	cpu         time.Duration // of the server
	others      float64       // cores that neither the server nor this process took
	allocations float64       // of the server, for each call
}

func (s sample) perCall() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / float64(s.calls) }

func (s sample) rate() float64 { return float64(s.calls) / s.elapsed.Seconds() }

// run sends for settleTime and for the time that is measured.
func (l *load) run(tb testing.TB) sample {
	tb.Helper()
	var calls atomic.Int64
	var stop atomic.Bool
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		callers(func(caller int) {
			draw := rand.New(rand.NewPCG(uint64(caller), 1)) //nolint:gosec // Not negative.
			for !stop.Load() && l.ask(tb, caller%connections, draw.IntN(keys)) != nil {
				calls.Add(1)
			}
		})
	}()
	<-time.After(settleTime)
	before := l.look(tb, &calls)
	<-time.After(measured)
	after := l.look(tb, &calls)
	stop.Store(true)
	<-finished
	if tb.Failed() {
		tb.FailNow()
	}
	return after.since(before)
}

// A moment is what the meters show at one time.
type moment struct {
	at          time.Time
	calls       int64
	cpu, own    time.Duration // of the server; of it and this process
	machine     time.Duration // of everything
	allocations uint64
}

func (l *load) look(tb testing.TB, calls *atomic.Int64) moment {
	tb.Helper()
	m := moment{allocations: l.server.figure(tb), at: time.Now(), calls: calls.Load()}
	m.cpu = processCPU(tb, l.server.pid())
	m.own = m.cpu + ownCPU(tb)
	m.machine = machineCPU(tb)
	return m
}

func (m moment) since(before moment) sample {
	s := sample{calls: m.calls - before.calls, elapsed: m.at.Sub(before.at), cpu: m.cpu - before.cpu}
	others := (m.machine - before.machine) - (m.own - before.own)
	s.others = max(0, others.Seconds()/s.elapsed.Seconds())
	s.allocations = float64(m.allocations-before.allocations) / float64(s.calls)
	return s
}
