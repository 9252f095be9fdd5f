package policy

import (
	"fmt"
	"net/http"
	"time"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// What holds where a ModelLimit's queue says nothing.
const (
	defaultAge        = 10 * time.Second
	defaultQueueBytes = 256 << 20
)

// HighestPriority is that of Critical.
const HighestPriority = 4

// A Capacity is how many requests a group of models serves at once, and who may wait. It is immutable.
type Capacity struct {
	Group string // the name of the ModelLimit
	Max   int64
	Queue *Queue // nil: nobody waits
	// Shares are the parts of Max that tiers get first, by the name of the tier.
	Shares map[string]Share
}

// A Queue bounds who may wait for a Capacity.
type Queue struct {
	MaxLength    int           // requests that wait at once
	MaxBodyBytes int64         // of all their bodies together
	MaxWait      time.Duration // the tier's own bounds it as well
	Age          time.Duration // after which the first request of a key rises by one priority
}

// A Share is the part of a Capacity that one tier gets first.
type Share struct {
	Size    int64  // requests under way
	Counter string // counts the tier's requests under way, as Limit.Counter does
	Entry   string // as Limit.Entry
}

// newCapacity is the capacity of a ModelLimit, and the rule that bounds it.
func newCapacity(name string, in *v1alpha1.Capacity, from Origin) rule {
	c := &Capacity{Group: name, Max: int64(in.ConcurrentRequests)}
	if q := in.Queue; q != nil {
		c.Queue = &Queue{
			MaxLength: int(q.MaxLength), MaxWait: seconds(q.MaxWaitSeconds), Age: defaultAge, MaxBodyBytes: defaultQueueBytes,
		}
		if q.AgeSeconds > 0 {
			c.Queue.Age = seconds(q.AgeSeconds)
		}
		if q.MaxBodyBytes > 0 {
			c.Queue.MaxBodyBytes = q.MaxBodyBytes
		}
	}
	for _, r := range in.Reserved {
		c.reserve(r.TierName, int64(r.ConcurrentRequests))
	}
	return rule{
		pair: capacityPair, max: c.Max, status: http.StatusServiceUnavailable,
		origin: from.at("spec.capacity.concurrentRequests"), capacity: c,
	}
}

var capacityPair = Pair{ConcurrentRequests, NoPer}

// reserve must not be called once others see the Capacity.
func (c *Capacity) reserve(tier string, size int64) {
	if c.Shares == nil {
		c.Shares = map[string]Share{}
	}
	entry := "tier:" + tier
	c.Shares[tier] = Share{size, counter(ScopeModelShared, c.Group, entry, capacityPair, FixedWindow), entry}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// MaxWait is the longest that a request of the holder may wait for the capacity; 0 if it must not.
func (c *Capacity) MaxWait(h *Holder) time.Duration {
	if c.Queue == nil {
		return 0
	}
	return min(c.Queue.MaxWait, h.MaxWait)
}

// Capacities lists the capacities that are enforced, by the name of their group.
func (t *Table) Capacities() map[string]*Capacity {
	all := map[string]*Capacity{}
	for _, c := range t.catalogs() {
		c.addCapacities(all)
	}
	return all
}

func (c *catalog) addCapacities(all map[string]*Capacity) {
	for _, name := range c.names {
		if g, _ := c.groups.said(name); g.capacity() != nil && !g.shadow {
			all[g.name] = g.capacity()
		}
	}
}

// capacity is the group's own; nil if it has none.
func (g *group) capacity() *Capacity {
	for _, ru := range g.shared {
		if ru.capacity != nil {
			return ru.capacity
		}
	}
	return nil
}

// dropQueue lets nobody wait: what does not fit is refused.
func (g *group) dropQueue() {
	for i := range g.shared {
		g.shared[i].capacity = nil
	}
}

// oneQueue finds a group that has a capacity beside its parent's. A request can wait in one place only, so it waits for the
// parent's; its own still bounds it. It waits for its own while the parent's is only tried.
func (g *group) oneQueue() []Problem {
	if g.parent == nil || g.capacity() == nil || g.parent.capacity() == nil {
		return nil
	}
	while := ""
	if g.parent.shadow && !g.shadow {
		while = " when the parent's is enforced"
	} else {
		g.dropQueue()
	}
	return []Problem{{
		v1alpha1.ReasonCapacityConflict, "spec.capacity",
		fmt.Sprintf("The parent, ModelLimit %s, has a capacity already, and a request can wait in one place only: what does not fit here is refused at once%s. "+
			"Remove one of them, or bound this group by spec.shared.concurrency.", g.parent.name, while),
	}}
}

// longestWait is the longest that any request may wait for a capacity of the catalog.
func (c *catalog) longestWait() (longest time.Duration) {
	for _, name := range c.names {
		for g, _ := c.groups.said(name); g != nil; g = g.parent {
			if capacity := g.capacity(); capacity != nil && capacity.Queue != nil && !g.shadow {
				longest = max(longest, capacity.Queue.MaxWait)
			}
		}
	}
	return longest
}

// shareProblems finds shares of tiers that do not exist.
func (c *compilation) shareProblems(m *v1alpha1.ModelLimit) []Problem {
	if m.Spec.Capacity == nil {
		return nil
	}
	var problems []Problem
	for _, r := range m.Spec.Capacity.Reserved {
		if c.tiers[r.TierName] == nil {
			problems = append(problems, Problem{
				v1alpha1.ReasonTierNotFound, fmt.Sprintf("spec.capacity.reserved[tierName=%s]", r.TierName),
				fmt.Sprintf("There is no accepted RateLimitTier %s. Its share is lent out meanwhile; the limits hold.", r.TierName),
			})
		}
	}
	return problems
}
