package replicas_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// counters is the pattern of the keys of what is counted.
const counters = "tk1:{*"

// TestASentinelFindsAnotherRedis kills a master under load. What it had not copied yet is forgotten.
func TestASentinelFindsAnotherRedis(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, "--replicaof", host, port)
	eventually(t, soon, "the master has a replica", func() bool { return strings.Contains(master.Do("info", "replication"), "state=online") })
	var sentinels []string
	for _, s := range redistest.StartSentinels(t, 3, master, 3*time.Second) {
		eventually(t, soon, "a sentinel knows of the replica", func() bool { return strings.Contains(s.Do("sentinel", "replicas", "main"), replica.Addr) })
		sentinels = append(sentinels, s.Addr)
	}
	x := try(t, on(sentinels...), "--redis-sentinel-master=main")
	x.fail(t, master.Kill)
	x.check(t, true)
}

// fail makes trouble, and waits until it has been noticed by all.
func (x *trial) fail(t *testing.T, trouble func()) {
	t.Helper()
	x.endure(t, func() {
		trouble()
		eventually(t, soon, "each replica has noticed", func() bool { return x.outOf(t) == len(x.replicas) })
	})
}

// TestAClusterLosesANode kills the master that has most of what is counted, whose replica takes its place.
func TestAClusterLosesANode(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "--cluster-node-timeout", "4000")
	x := try(t, on(cluster.Addrs()...))
	x.apart = true // Each asks by itself, now and then, who has the slots now.
	x.fail(t, busiest(cluster).Kill)
	x.check(t, true)
}

func busiest(c *redistest.Cluster) (node *redistest.Server) {
	most := -1
	for _, n := range c.Nodes[:3] {
		if keys := len(strings.Fields(n.Do("keys", counters))); keys > most {
			node, most = n, keys
		}
	}
	return node
}

// TestCountsMoveWithTheSlotsOfACluster moves everything that is counted to other nodes, under load.
func TestCountsMoveWithTheSlotsOfACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	x := try(t, on(cluster.Addrs()...))
	x.endure(t, func() {
		moved := 0
		masters := cluster.Nodes[:3]
		for i, from := range masters {
			to := masters[(i+1)%len(masters)]
			for slot := range slotsOf(from) {
				move(slot, from, to, masters)
				moved++
			}
		}
		t.Logf("%d slots were moved", moved)
	})
	x.check(t, false)
}

// slotsOf are those of a node's own slots in which something is counted.
func slotsOf(n *redistest.Server) map[string]bool {
	slots := map[string]bool{}
	for key := range strings.FieldsSeq(n.Do("keys", counters)) {
		slots[n.Do("cluster", "keyslot", key)] = true
	}
	return slots
}

// move does what redis-cli does to move a slot.
func move(slot string, from, to *redistest.Server, masters []*redistest.Server) {
	source, target := from.Do("cluster", "myid"), to.Do("cluster", "myid")
	host, port, _ := net.SplitHostPort(to.Addr)
	to.Do("cluster", "setslot", slot, "importing", source)
	from.Do("cluster", "setslot", slot, "migrating", target)
	for {
		keys := strings.Fields(from.Do("cluster", "getkeysinslot", slot, "100"))
		if len(keys) == 0 {
			break
		}
		from.Do(append([]string{"migrate", host, port, "", "0", "5000", "keys"}, keys...)...)
	}
	to.Do("cluster", "setslot", slot, "node", target)
	from.Do("cluster", "setslot", slot, "node", target)
	for _, other := range masters {
		other.Do("cluster", "setslot", slot, "node", target)
	}
}
