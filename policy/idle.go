package policy

import (
	"fmt"
	"slices"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A Note is about a field of an accepted object that is in order and has no effect, because what it goes with is nowhere.
type Note struct {
	Object  Object
	Field   string // as in a Problem
	Message string
}

// Idle finds pools without a counterpart, and queues and shares that nobody waits for. The verdicts are those on the Input, as
// Compile returns them: of what is not accepted they say enough.
func Idle(in *Input, verdicts []Verdict) []Note {
	all := slices.Concat(idlePools(in), idleQueues(in))
	return slices.DeleteFunc(all, func(n Note) bool {
		i, found := slices.BinarySearchFunc(verdicts, Verdict{Object: n.Object}, compareVerdicts)
		return !found || !verdicts[i].Accepted()
	})
}

// idlePools finds tiers whose pool has no endpoints, and endpoints whose pool no tier names.
func idlePools(in *Input) (notes []Note) {
	named, served := map[string]bool{}, map[string]bool{}
	for _, t := range in.Tiers {
		named[t.Spec.BackendPool] = true
	}
	for _, g := range in.Gateways {
		for _, b := range g.Spec.Backends {
			for _, e := range b.Endpoints {
				served[e.Pool] = true
				if e.Pool != "" && !named[e.Pool] {
					notes = append(notes, Note{
						Object{KindGateway, nameOf(&g.ObjectMeta)},
						fmt.Sprintf("spec.backends[name=%s].endpoints[address=%s,port=%d].pool", b.Name, e.Address, e.Port),
						fmt.Sprintf("No RateLimitTier has backendPool: %s, so this endpoint serves nobody.", e.Pool),
					})
				}
			}
		}
	}
	for _, t := range in.Tiers {
		if pool := t.Spec.BackendPool; pool != "" && !served[pool] {
			notes = append(notes, Note{
				Object{KindTier, nameOf(&t.ObjectMeta)},
				"spec.backendPool",
				fmt.Sprintf("No endpoint of any backend has pool: %s, so endpoints without a pool serve this tier.", pool),
			})
		}
	}
	return notes
}

// idleQueues finds tiers that may wait where there is no queue, and queues and shares of those who may not.
func idleQueues(in *Input) (notes []Note) {
	hasQueue := func(m *v1alpha1.ModelLimit) bool { return m.Spec.Capacity != nil && m.Spec.Capacity.Queue != nil }
	queues, waits := slices.ContainsFunc(in.Models, hasQueue), map[string]bool{}
	for _, t := range in.Tiers {
		if t.Spec.Queue != nil && t.Spec.Queue.Mode == v1alpha1.QueueWait {
			waits[t.Name] = true
			if !queues {
				notes = append(notes, Note{
					Object{KindTier, nameOf(&t.ObjectMeta)},
					"spec.queue",
					"No ModelLimit has capacity.queue, so there is nothing to wait for.",
				})
			}
		}
	}
	for _, m := range in.Models {
		if m.Spec.Capacity == nil {
			continue
		}
		object := Object{KindModel, nameOf(&m.ObjectMeta)}
		if hasQueue(m) && len(waits) == 0 {
			notes = append(notes, Note{
				object, "spec.capacity.queue",
				"No RateLimitTier has queue: {mode: Wait}, so nobody waits: what is beyond the capacity is answered 503 at once.",
			})
			continue
		}
		for _, r := range m.Spec.Capacity.Reserved {
			field := fmt.Sprintf("spec.capacity.reserved[tierName=%s]", r.TierName)
			switch {
			case !hasQueue(m):
				notes = append(notes, Note{object, field, "Shares are for requests that wait, and none does without capacity.queue, so this one has no effect."})
			case !waits[r.TierName]:
				notes = append(notes, Note{object, field, fmt.Sprintf(
					"Shares are for requests that wait, and RateLimitTier %s has no queue: {mode: Wait}, so this one has no effect.", r.TierName)})
			}
		}
	}
	return notes
}
