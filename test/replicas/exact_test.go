package replicas_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// offered are far more than any limit here admits.
const offered = 5000

// tenants hold keys many keys on one tier, each in a namespace of ten.
func tenants(tier string) (names, docs []string) {
	for i := range 50 {
		name := fmt.Sprintf("tenant-%d/key-%d", i%10, i)
		names, docs = append(names, name), append(docs, holder(name, tier))
	}
	return names, docs
}

func exactly() (manifests string, names []string) {
	names, docs := tenants("wide")
	return joined(append(docs,
		gateway, tier("wide", rate(1_000_000)),
		tier("hourly", "{rates: [{metric: Requests, per: Day, max: 1000}]}"), holder("requests", "hourly"),
		tier("tokens", "{rates: [{metric: Tokens, per: Day, max: 100000}]}"), holder("tokens", "tokens"), holder("churn", "tokens"),
		tier("few", "{concurrency: {max: 20}}"), holder("slots", "few"),
		model("shared", "{rates: [{metric: Requests, per: Day, max: 1000}, {metric: Tokens, per: Day, max: 1000000}]}"),
	)...), names
}

// TestReplicasCountAsOne offers far more than a limit at once, to all replicas in turn. It runs beside nothing else: so many requests
// keep the machine busy.
func TestReplicasCountAsOne(t *testing.T) {
	t.Run("a cluster", inACluster)
	for _, replicas := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			t.Parallel()
			manifests, names := exactly()
			x := install(t, replicas, manifests, on(redistest.Start(t).Addr), patient)
			clearOf(t, 24*time.Hour)
			x.requests(t)
			x.tokens(t)
			x.churn(t)
			x.modelGroup(t, names)
			x.slots(t)
		})
	}
}

func (x *installation) requests(t *testing.T) {
	t.Helper()
	if n := len(x.offer(t, offered, same(request{holder: "requests", model: general}))); n != 1000 {
		t.Errorf("of a limit of 1000 requests %d are admitted", n)
	}
	if diff := cmp.Diff(map[string]int64{"Key/Requests/Day": 1000}, x.used(t, "requests")); diff != "" {
		t.Errorf("requests that are counted (-want +got):\n%s", diff)
	}
}

// tokens shows that what is reserved never exceeds the limit, and that what is not used may be used by others, all of it.
func (x *installation) tokens(t *testing.T) {
	t.Helper()
	hundred := same(request{holder: "tokens", model: general, tokens: 100})
	leases := x.offer(t, offered, hundred)
	spent := x.settleAll(t, leases, func(i int) int { return i % 101 })
	again := x.offer(t, offered, hundred)
	if want := (100_000 - int(spent)) / 100; len(leases) != 1000 || len(again) != want {
		t.Errorf("%d reservations of 100 tokens are admitted, and %d more once %d tokens were spent; want 1000 and %d", len(leases), len(again), spent, want)
	}
	spent += x.settleAll(t, again, func(int) int { return 100 })
	if diff := cmp.Diff(map[string]int64{"Key/Tokens/Day": spent}, x.used(t, "tokens")); diff != "" || spent > 100_000 {
		t.Errorf("of 100,000 tokens %d were spent; counted (-want +got):\n%s", spent, diff)
	}
}

// churn settles while others reserve.
func (x *installation) churn(t *testing.T) {
	t.Helper()
	var admitted, spent atomic.Int64
	x.crowd(offered, func(i int, r *replica) {
		if lease, ok := r.reserve(t, request{holder: "churn", model: general, tokens: 100}); ok {
			cost := i % 101
			admitted.Add(1)
			spent.Add(int64(cost))
			x.any().settle(t, lease, cost)
		}
	})
	if diff := cmp.Diff(map[string]int64{"Key/Tokens/Day": spent.Load()}, x.used(t, "churn")); diff != "" || spent.Load() > 100_000 {
		t.Errorf("of 100,000 tokens %d were spent; counted (-want +got):\n%s", spent.Load(), diff)
	}
	t.Logf("of %d that reserved 100 tokens while others settled %d were admitted, and spent %d of 100,000", offered, admitted.Load(), spent.Load())
}

func (x *installation) modelGroup(t *testing.T, names []string) {
	t.Helper()
	leases := x.offer(t, offered, func(i int) request { return request{holder: names[i%len(names)], model: "shared", tokens: 1000} })
	if len(leases) != 1000 {
		t.Errorf("of 1000 requests that %d keys share %d are admitted", len(names), len(leases))
	}
	x.settleAll(t, leases, func(int) int { return 500 })
}

// slots shows that no more requests are under way at once than may be, and that in the end all slots are free.
func (x *installation) slots(t *testing.T) {
	t.Helper()
	one := request{holder: "slots", model: general}
	var underWay, most, admitted atomic.Int64
	x.crowd(offered, func(_ int, r *replica) {
		lease, ok := r.reserve(t, one)
		if !ok {
			return
		}
		admitted.Add(1)
		for now := underWay.Add(1); ; {
			seen := most.Load()
			if now <= seen || most.CompareAndSwap(seen, now) {
				break
			}
		}
		x.any().renew(t, lease)
		underWay.Add(-1)
		x.any().settle(t, lease, 1)
	})
	if most.Load() > 20 {
		t.Errorf("%d requests are under way at once, and 20 may be", most.Load())
	}
	t.Logf("of %d that came at once %d found a slot, at most %d at a time", offered, admitted.Load(), most.Load())
	if diff := cmp.Diff(map[string]int64{"Key/ConcurrentRequests": 0}, x.used(t, "slots")); diff != "" {
		t.Errorf("slots that are held in the end (-want +got):\n%s", diff)
	}
	leases := x.offer(t, 100, same(one))
	if len(leases) != 20 {
		t.Errorf("%d slots can be had in the end, want all 20", len(leases))
	}
	x.settleAll(t, leases, func(int) int { return 1 })
}

// inACluster counts a request at several nodes: the key's limits at one, those of the model at another. Never is too much admitted.
func inACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	names, docs := tenants("wide")
	docs = append(docs, gateway, tier("wide", rate(1_000_000)), tier("forty", rate(40)), holder("forty", "forty"),
		model("shared", "{rates: [{metric: Requests, per: Day, max: 1000}]}"), model("closed", "{rates: [{metric: Requests, per: Day, max: 0}]}"))
	x := install(t, 2, joined(docs...), on(cluster.Addrs()...), patient)
	clearOf(t, 24*time.Hour)

	admitted := len(x.offer(t, offered, func(i int) request { return request{holder: names[i%len(names)], model: "shared"} }))
	early := 1000 - admitted
	for range 2000 {
		if _, ok := x.any().reserve(t, request{holder: names[0], model: "shared"}); ok {
			admitted++
		}
	}
	if admitted != 1000 {
		t.Errorf("of 1000 requests that %d keys share %d are admitted in the end", len(names), admitted)
	}
	t.Logf("of %d at once for 1000 requests, %d were refused although something remained in the end", offered, max(early, 0))

	// Those for the model that is closed take from the key, and give back. Others must not suffer, but for a moment.
	var open, refused atomic.Int64
	x.crowd(offered, func(i int, r *replica) {
		if i%10 != 0 {
			r.reserve(t, request{holder: "forty", model: "closed"})
		} else if _, ok := r.reserve(t, request{holder: "forty", model: general}); ok {
			open.Add(1)
		} else if open.Load() < 40 {
			refused.Add(1)
		}
	})
	t.Logf("beside %d that gave back what they took, %d of 40 were admitted, and %d of %d were refused before all 40 were", offered*9/10, open.Load(), refused.Load(), offered/10)
	for range 100 {
		if _, ok := x.any().reserve(t, request{holder: "forty", model: general}); ok {
			open.Add(1)
		}
	}
	if open.Load() != 40 {
		t.Errorf("of 40 requests %d are admitted in the end", open.Load())
	}
	for name, value := range x.used(t, "forty") {
		if !strings.HasPrefix(name, "Key/") || value != 40 {
			t.Errorf("%s is %d, want 40", name, value)
		}
	}
}
