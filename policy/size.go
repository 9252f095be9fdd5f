package policy

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// MaxLimits is the largest number of limits that may hold for one request: more do not fit into a lease.
const MaxLimits = 32

// checkSize says whether a request of the holder could meet more limits than a lease carries, by any of the catalogs.
func (c *compilation) checkSize(h *Holder, t *tier, path string, catalogs ...*catalog) *Problem {
	for _, models := range catalogs {
		if models.mentioned(h) <= MaxLimits {
			continue
		}
		if n := c.mostLimits(models, h, t); n > MaxLimits {
			return &Problem{
				v1alpha1.ReasonTooManyLimits, path,
				fmt.Sprintf("A request could meet %d limits at once, and %d is the most; remove limits from the tier, the model, the user or the quota.", n, MaxLimits),
			}
		}
	}
	return nil
}

// pairs is the sets of pairs that an object mentions, by bit, over everything and in any resource, class or model.
type pairs struct{ all, resource, model uint32 }

func (p pairs) or(q pairs) pairs {
	return pairs{p.all | q.all, p.resource | q.resource, p.model | q.model}
}

func (p pairs) count() int {
	return bits.OnesCount32(p.all) + bits.OnesCount32(p.resource) + bits.OnesCount32(p.model)
}

func bitsOf(rules []rule) (set uint32) {
	for _, ru := range rules {
		set |= ru.pair.bit()
	}
	return set
}

// mentioned is a number of limits that a request of the holder cannot exceed. It costs next to nothing, and for most
// holders it is small enough.
func (c *catalog) mentioned(h *Holder) int {
	p := pairs{model: c.perKey}
	for _, rs := range h.sources() {
		p = p.or(rs.pairs)
	}
	n := p.count() + c.shared + h.beside()
	if h.user != nil {
		n += h.user.rules.pairs.count()
	}
	return n
}

// beside is the most limits of the holder that replace no other, because they are not enforced.
func (h *Holder) beside() (n int) {
	for _, rs := range h.sources() {
		if rs.shadow {
			n += rs.pairs.count()
		}
	}
	return n
}

// mostLimits is the largest number of limits that a request of the holder can meet. Holders without limits of their own
// have it in common with all such holders of their tier and user.
func (c *compilation) mostLimits(models *catalog, h *Holder, t *tier) int {
	key := plan{models, t, h.user}
	plain := h.own == nil
	if n, known := c.worst[key]; plain && known {
		return n
	}
	sets := slices.Clone(h.sources())
	if h.user != nil {
		sets = append(sets, h.user.rules)
	}
	probe := *h
	probe.probe = true
	everywhere := models.limitsAt(&probe, point{})
	byModel, byResource := everywhere, everywhere
	for _, p := range models.points(sets...) {
		byModel = max(byModel, models.limitsAt(&probe, p))
	}
	for _, rs := range sets {
		for r := range rs.resources {
			byResource = max(byResource, models.limitsAt(&probe, point{resource: r}))
		}
	}
	n := byModel + byResource - everywhere + h.beside()
	if plain {
		c.worst[key] = n
	}
	return n
}

func (c *catalog) limitsAt(h *Holder, p point) (n int) {
	for _, l := range c.resolve(h, p.model, p.resource, false).Limits {
		if l.Max != beyondAll {
			n++
		}
		if l.Capacity != nil && len(l.Capacity.Shares) > 0 {
			n++
		}
	}
	return n
}

// plan is what holders without limits of their own can have in common.
type plan struct {
	models *catalog
	tier   *tier
	user   *user
}
