package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A Usage is how much is used of what counts for one ApiKeyQuota, or one UserQuota.
type Usage struct {
	Object policy.Object
	// Alerts are the parts of a limit's max, in percent, at whose use people are told, ascending.
	Alerts []int
	Limits []LimitUse // by scope, entry and pair
}

// A LimitUse is how much of one limit is used.
type LimitUse struct {
	Scope     string `json:"scope"`
	Entry     string `json:"entry,omitempty"` // empty where all requests count
	Metric    string `json:"metric"`
	Per       string `json:"per,omitempty"` // not for ConcurrentRequests
	Algorithm string `json:"algorithm"`
	// Used is what was counted in the window, reservations of requests under way included. It may exceed Max.
	Used      int64 `json:"used"`
	Max       int64 `json:"max"`
	Remaining int64 `json:"remaining"` // never below 0
	// Reset is when the window ends, in UTC; for one that slides, when all that is counted is gone. It is zero for
	// ConcurrentRequests.
	Reset  time.Time     `json:"resetTime,omitzero"`
	Origin policy.Origin `json:"origin"`
}

func newLimitUse(l *policy.Limit, c counter.Count) LimitUse {
	return LimitUse{
		Scope: l.Scope.String(), Entry: l.Entry, Metric: l.Pair.Metric.String(), Per: l.Pair.Per.String(), Algorithm: l.Algorithm.String(),
		Used: c.Used, Max: l.Max, Remaining: max(l.Max-c.Used, 0), Reset: c.Reset, Origin: l.Origin,
	}
}

// ID tells the limits of one object apart as its status does: scope, entry, metric and per, joined by slashes, without those that
// are empty.
func (u *LimitUse) ID() string {
	parts := slices.DeleteFunc([]string{u.Scope, u.Entry, u.Metric, u.Per}, func(s string) bool { return s == "" })
	return strings.Join(parts, "/")
}

// Percent is the used part of the limit, rounded down, at most 100. Of a limit that allows nothing it is 0: nobody uses it up.
func (u *LimitUse) Percent() int {
	switch {
	case u.Max <= 0:
		return 0
	case u.Used >= u.Max:
		return wholeLimit
	}
	high, low := bits.Mul64(uint64(max(u.Used, 0)), wholeLimit) // which 64 bits may not hold
	percent, _ := bits.Div64(high, low, uint64(u.Max))
	return int(percent) //nolint:gosec // It is less than 100.
}

// wholeLimit is a limit in percent.
const wholeLimit = 100

// A KeyUsage is how much a key uses of every limit that counts for it or for its user.
type KeyUsage struct {
	Key    string     `json:"key"` // namespace/name of the ApiKeyQuota
	Limits []LimitUse `json:"limits"`
}

// Highest is the limit of which the largest part is used, the first of several; nil if nothing is limited.
func (k *KeyUsage) Highest() *LimitUse {
	var highest *LimitUse
	for i := range k.Limits {
		if l := &k.Limits[i]; highest == nil || l.Percent() > highest.Percent() {
			highest = l
		}
	}
	return highest
}

// percent is the used part of that limit; less than nothing if nothing is limited.
func (k *KeyUsage) percent() int {
	if l := k.Highest(); l != nil {
		return l.Percent()
	}
	return -1
}

// Usage is how much an ApiKeyQuota uses now, and how much its user does where a UserQuota limits it. Known is false if there is no
// such quota, or it was never accepted. An error means that the store failed. The counts need not be of one instant.
func (l *Limiter) Usage(ctx context.Context, quota policy.Name) (usages []Usage, known bool, err error) {
	e := l.epoch.Load()
	if e == nil {
		return nil, false, nil
	}
	c, found := e.table.Quota(quota)
	if !found || c.Holder == nil {
		return nil, false, nil
	}
	for _, a := range e.table.Accounts(c) {
		u := Usage{Object: a.Object, Alerts: a.Alerts}
		if u.Limits, err = l.peek(ctx, a.Limits); err != nil {
			return nil, true, fmt.Errorf("reading the counters of %s: %w", a.Object, err)
		}
		usages = append(usages, u)
	}
	return usages, true, nil
}

// Alone reports whether the store that replicas share is out, and this one counts for itself: its Usage has what it saw of the others before,
// and nothing that they have used since.
func (l *Limiter) Alone() bool { return l.alone() }

func (l *Limiter) peek(ctx context.Context, limits []policy.Limit) ([]LimitUse, error) {
	counters, counts := make([]counter.Limit, len(limits)), make([]counter.Count, len(limits))
	for i, limit := range limits {
		counters[i] = counter.Limit{Key: keyOf(limit), Window: windowOf(limit), Max: limit.Max}
	}
	if err := l.store.Peek(ctx, l.now(), counters, counts); err != nil {
		return nil, err //nolint:wrapcheck // The only caller says what was read.
	}
	uses := make([]LimitUse, len(limits))
	for i, limit := range limits {
		uses[i] = newLimitUse(&limit, counts[i])
	}
	return uses, nil
}

// KeyUsage is how much one ApiKeyQuota uses. Known is as in Usage, and so is the error.
func (l *Limiter) KeyUsage(ctx context.Context, quota policy.Name) (k KeyUsage, known bool, err error) {
	usages, known, err := l.Usage(ctx, quota)
	k = KeyUsage{Key: quota.String(), Limits: []LimitUse{}} // [], and not null
	for _, u := range usages {
		k.Limits = append(k.Limits, u.Limits...)
	}
	return k, known, err
}

// KeyUsages lists at most so many ApiKeyQuotas, those of which the largest part of any limit is used first, and how many more there
// are. Those are left out of which the store cannot tell. An empty namespace is all. It looks at every quota, a hundred thousand of
// which take seconds; it ends early when ctx does.
func (l *Limiter) KeyUsages(ctx context.Context, namespace string, most int) (list []KeyUsage, more int, err error) {
	for _, name := range l.Quotas() {
		if namespace != "" && name.Namespace != namespace {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, err //nolint:wrapcheck // The caller ended it.
		}
		k, known, err := l.KeyUsage(ctx, name)
		untold := errors.Is(err, counter.ErrOut) || errors.Is(err, counter.ErrUnreadable)
		if err != nil && !untold {
			return nil, 0, err
		}
		if known && !untold {
			list = append(list, k)
		}
		if len(list) >= 2*most+1 { // so that no more is held than is needed
			list, more = mostUsed(list, most), more+len(list)-most
		}
	}
	more += max(len(list)-most, 0)
	return mostUsed(list, most), more, nil
}

// mostUsed keeps so many of those of which most is used, in the order in which they came where that is equal.
func mostUsed(list []KeyUsage, most int) []KeyUsage {
	slices.SortStableFunc(list, func(a, b KeyUsage) int { return cmp.Compare(b.percent(), a.percent()) })
	return list[:min(len(list), most)]
}

// Quotas names all ApiKeyQuotas, in order.
func (l *Limiter) Quotas() []policy.Name {
	e := l.epoch.Load()
	if e == nil {
		return nil
	}
	names := e.table.Quotas()
	slices.SortFunc(names, func(a, b policy.Name) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return names
}

// Active names the ApiKeyQuotas that had requests admitted since it was called last, in no order. It is for one caller. It may leave
// out quotas if very many had requests, and it knows nothing of other replicas: whoever must not miss any looks at all Quotas
// now and then.
func (l *Limiter) Active() []policy.Name { return l.activity.take() }

// maxActive bounds what nobody takes.
const maxActive = 1 << 17

// An activity notes which quotas were used, each once in a round: what a request pays for it, when its plan is noted already,
// is two loads. A round ends when somebody takes what was noted.
type activity struct {
	round atomic.Uint64

	mu    sync.Mutex
	names map[policy.Name]struct{}
}

func newActivity() *activity {
	a := &activity{names: map[policy.Name]struct{}{}}
	a.round.Store(1) // 0 is that of plans that were never noted
	return a
}

// note is called after the counters have changed: who takes what was noted, and then reads counters, misses nothing.
func (a *activity) note(p *plan) {
	if p.noted.Load() != a.round.Load() {
		a.add(p)
	}
}

func (a *activity) add(p *plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.noted.Store(a.round.Load())
	if quota, ok := p.holder.QuotaName(); ok && len(a.names) < maxActive {
		a.names[quota] = struct{}{}
	}
}

func (a *activity) take() []policy.Name {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := make([]policy.Name, 0, len(a.names))
	for n := range a.names {
		names = append(names, n)
	}
	clear(a.names)
	a.round.Add(1)
	return names
}
