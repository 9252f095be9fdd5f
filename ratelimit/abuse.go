package ratelimit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// WithFailures sets where failures are counted and blocks are kept. Without it nobody is blocked, whatever gateways say.
func WithFailures(f counter.Failures) Option { return func(l *Limiter) { l.failures = f } }

// A subject is a gateway, a kind and an id, so that a block at one gateway means nothing at another. The id of a quota is a
// digest of its name, that of an address is its network. The zero value is nobody: subjects stand in leases, and the kinds may
// not change.
const (
	gatewayIDSize = 8
	subjectOfNone = 0
	subjectQuota  = 1
	subjectClient = 2
)

// A gatewayID is a digest of a gateway's name.
type gatewayID [gatewayIDSize]byte

func gatewayIDOf(name policy.Name) gatewayID {
	sum := sha256.Sum256([]byte(name.String()))
	return gatewayID(sum[:])
}

func gatewayOf(s counter.Subject) gatewayID { return gatewayID(s[:]) }
func kindOf(s counter.Subject) byte         { return s[gatewayIDSize] }
func idIn(s counter.Subject) [16]byte       { return [16]byte(s[gatewayIDSize+1:]) }

func newSubject(gateway gatewayID, kind byte, id [16]byte) (s counter.Subject) {
	copy(s[:], gateway[:])
	s[gatewayIDSize] = kind
	copy(s[gatewayIDSize+1:], id[:])
	return s
}

func quotaID(name string) [16]byte {
	sum := sha256.Sum256([]byte(name))
	return [16]byte(sum[:])
}

// A guard is the abuse protection of one gateway.
type guard struct {
	*policy.AbuseProtection

	name  string // of the gateway
	id    gatewayID
	rule  counter.Rule
	count *abuseCounts
}

// abuseCounts are what is counted of a gateway for its metrics.
type abuseCounts struct{ failures, blocks atomic.Int64 }

// guards are those of the gateways that protect themselves.
type guards struct {
	byGateway map[*policy.Gateway]*guard
	byID      map[gatewayID]*guard
}

func (l *Limiter) newGuards(t *policy.Table) guards {
	all := guards{map[*policy.Gateway]*guard{}, map[gatewayID]*guard{}}
	if l.failures == nil {
		return all
	}
	for _, g := range t.Gateways() {
		a := g.Abuse
		if a == nil {
			continue
		}
		count, _ := l.abuses.LoadOrStore(g.Name, &abuseCounts{})
		made := &guard{a, g.Name.String(), gatewayIDOf(g.Name), counter.Rule{Max: a.MaxFailures, Window: a.Window, Block: a.Block}, count}
		all.byGateway[g], all.byID[made.id] = made, made
	}
	return all
}

// of is nil where the gateway blocks nobody.
func (all *guards) of(g *policy.Gateway) *guard {
	if g.Abuse == nil {
		return nil
	}
	return all.byGateway[g]
}

// ofQuota is the subject of requests with a key of the quota.
func (g *guard) ofQuota(name string) counter.Subject {
	return newSubject(g.id, subjectQuota, quotaID(name))
}

// ofClient is the subject of requests without a known key; nobody if the address is none.
func (g *guard) ofClient(address string) counter.Subject {
	client, err := netip.ParseAddr(address)
	if err != nil {
		return counter.Subject{}
	}
	return newSubject(g.id, subjectClient, policy.ClientNetwork(client).As16())
}

func (g *guard) ofHolder(h *policy.Holder) counter.Subject {
	if h.Client.IsValid() {
		return newSubject(g.id, subjectClient, h.Client.As16())
	}
	return g.ofQuota(h.Name)
}

// exempts reports whether the client at the address is never blocked, and its failures do not count.
func (g *guard) exempts(address string) bool {
	if len(g.Exempt) == 0 {
		return false
	}
	client, err := netip.ParseAddr(address)
	return err == nil && g.Exempts(client)
}

// A suspect is whom the failures of a request are counted against. Who that is is worked out only where it matters.
type suspect struct {
	guard      *guard             // nil: nobody is blocked at the gateway
	credential *policy.Credential // of a key that the gateway knows; nil: the client
	client     string
}

func (s *suspect) subject() counter.Subject {
	switch {
	case s.guard == nil || s.guard.exempts(s.client):
		return counter.Subject{}
	case s.credential != nil:
		return s.guard.ofQuota(s.credential.Quota.String())
	default:
		return s.guard.ofClient(s.client)
	}
}

// subjectFor is whom the lease of a request names.
func (p *plan) subjectFor(r *descriptor.Reserve) counter.Subject {
	if p.guard == nil || p.guard.exempts(r.Client) {
		return counter.Subject{}
	}
	return p.subject
}

// sighting is that of a block that refuses nobody.
func (s *suspect) sighting(g *policy.Gateway) sighting {
	by := sighting{gateway: s.guard.name, holder: clientName(s.client), origin: policy.Origin{
		Kind: policy.KindGateway, Namespace: g.Name.Namespace, Name: g.Name.Name, Field: "spec.abuseProtection.maxFailures",
	}}
	if s.credential != nil {
		by.holder = s.credential.Quota.String()
	}
	return by
}

// clientName names the network of a client, as it is counted and blocked: who has one has many addresses.
func clientName(address string) string {
	client, _ := netip.ParseAddr(address) // Nobody is blocked whose address is none.
	return "client " + policy.ClientNetwork(client).String()
}

// refuseBlocked words the answer to a request of one who is blocked; false if it is not. A store that fails blocks nobody, and a
// gateway that enforces nothing has blocks that refuse nobody: they are recorded.
func (l *Limiter) refuseBlocked(ctx context.Context, now time.Time, s *suspect, g *policy.Gateway, c *caller, r *descriptor.Reserve) (Decision, bool) {
	if s.guard == nil || !l.failures.Any(now) {
		return Decision{}, false
	}
	subject := s.subject()
	if kindOf(subject) == subjectOfNone {
		return Decision{}, false
	}
	block, blocked, err := l.failures.BlockOf(ctx, now, subject)
	if err != nil {
		l.log.WarnContext(ctx, "could not tell whether a request is blocked", "error", err)
	}
	if !blocked {
		return Decision{}, false
	}
	if g.Shadow {
		l.shadows.record(s.sighting(g), int64(s.guard.MaxFailures), now)
		return Decision{}, false
	}
	report := report{gateway: g, resource: r.Resource, now: now}
	if c.holder != nil {
		report.terms = c.terms()
	}
	denial := tooManyFailures(s.guard.MaxFailures)
	return denial.decide(report.headers(nil), r.Protocol, ceilSeconds(block.Until.Sub(now)), false), true
}

func tooManyFailures(most int) denial {
	return denial{
		http.StatusTooManyRequests, "rate_limit_error", "rate_limit_error", "too_many_failed_attempts",
		"Too many failed attempts (> " + strconv.Itoa(most) + ") resulting in a non-success status code. Please wait %ds and try again.",
	}
}

// answered takes in the status with which a request was answered whose failures are counted against the subject. What is
// wrong is logged: nobody waits for it.
func (l *Limiter) answered(ctx context.Context, s counter.Subject, status int) {
	e := l.epoch.Load()
	if status < http.StatusBadRequest || kindOf(s) == subjectOfNone || e == nil {
		return
	}
	g, protects := e.guards.byID[gatewayOf(s)]
	if !protects || !g.Counts(status) {
		return
	}
	outcome, err := l.failures.Fail(context.WithoutCancel(ctx), l.clock(), s, g.rule)
	switch {
	case err != nil:
		l.log.WarnContext(ctx, "could not count a failure", "error", err)
	case outcome == counter.Blocked:
		g.count.blocks.Add(1)
		l.log.DebugContext(ctx, "blocked", "gateway", g.name, "block", s.String(), "for", g.Block.String())
		fallthrough
	case outcome == counter.Counted:
		g.count.failures.Add(1)
	}
}

// answeredByEnvoy takes in the status of a request that Envoy answered without asking, by the name of the gateway.
func (l *Limiter) answeredByEnvoy(ctx context.Context, gateway, client string, status int) {
	e := l.epoch.Load()
	if e == nil {
		return
	}
	if g, ok := e.table.Gateway(gateway); ok {
		s := suspect{guard: e.guards.of(g), client: client}
		l.answered(ctx, s.subject(), status)
	}
}

// A Block is one that is in force, as people are told of it.
type Block struct {
	ID       string    `json:"id"`      // for Lift
	Gateway  string    `json:"gateway"` // namespace/name
	Kind     string    `json:"kind"`    // KindQuota or KindAddress
	Name     string    `json:"name"`    // namespace/name of a quota, empty if it is gone; else the address, of IPv6 the first of its /64
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Failures int       `json:"failures"` // that led to it
}

// Kinds of those who can be blocked.
const (
	KindQuota   = "ApiKeyQuota"
	KindAddress = "Address"
)

// Blocks lists the blocks in force at gateways that protect themselves, by gateway, kind and name.
func (l *Limiter) Blocks(ctx context.Context) ([]Block, error) {
	e := l.epoch.Load()
	if e == nil || l.failures == nil {
		return nil, nil
	}
	found, err := l.failures.Blocks(ctx, l.clock())
	if err != nil {
		return nil, err //nolint:wrapcheck // The store says what went wrong, and there is nothing to add.
	}
	var all []Block
	for _, b := range found {
		g, protects := e.guards.byID[gatewayOf(b.Subject)]
		if !protects {
			continue
		}
		told := Block{ID: b.Subject.String(), Gateway: g.name, Kind: KindAddress, Since: b.Since, Until: b.Until, Failures: b.Failures}
		if id := idIn(b.Subject); kindOf(b.Subject) == subjectQuota {
			told.Kind, told.Name = KindQuota, e.quotaNames()[id]
		} else {
			told.Name = netip.AddrFrom16(id).Unmap().String()
		}
		all = append(all, told)
	}
	slices.SortFunc(all, func(a, b Block) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// ErrBlockID says that no block can have an id.
var ErrBlockID = errors.New("no block has such an id")

// Lift ends the block of an id, and reports false if none is in force. An error is ErrBlockID, or means that the store failed.
func (l *Limiter) Lift(ctx context.Context, id string) (bool, error) {
	s, err := counter.ParseSubject(id)
	if err != nil {
		return false, ErrBlockID
	}
	if l.failures == nil {
		return false, nil
	}
	return l.failures.Lift(ctx, l.clock(), s) //nolint:wrapcheck // As in Blocks.
}
