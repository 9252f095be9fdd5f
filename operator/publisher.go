package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
	"github.com/tierkeeper/tierkeeper/xds/secret"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// A publisher tells the rate-limit service the Table, and the Envoys of each gateway their configuration. It implements
// controllers.Publisher.
type publisher struct {
	settings envoy.Settings
	log      *slog.Logger
	xds      *server.Server
	feed     *feed.Server

	publishing sync.Mutex
	keeper     secret.Keeper
	served     map[policy.Name]told // as what was published last; zero where that failed

	mu      sync.Mutex
	changed func()
	mark    uint64
	there   map[policy.Name]bool   // gateways in the cluster; nil: not known yet
	strays  map[policy.Name]bool   // gateways that are not, and that Envoys were told to serve no more
	unbuilt map[policy.Name]string // gateways that their Envoys cannot be told of, and why
}

func newPublisher(settings envoy.Settings, log *slog.Logger) *publisher {
	p := &publisher{settings: settings, log: log, served: map[policy.Name]told{}, strays: map[policy.Name]bool{}, changed: func() {}}
	p.xds = server.New(nil, p.heard)
	p.feed = feed.NewServer(p.tell)
	return p
}

// OnAcknowledged implements controllers.Publisher.
func (p *publisher) OnAcknowledged(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = f
}

func (p *publisher) tell() {
	p.mu.Lock()
	f := p.changed
	p.mu.Unlock()
	f()
}

// heard takes note of an Envoy. One of a gateway that was deleted while no operator was there still serves it.
func (p *publisher) heard(gateway policy.Name) {
	p.tell()
	p.mu.Lock()
	stray := p.there != nil && !p.there[gateway] && !p.strays[gateway]
	p.mu.Unlock()
	if stray {
		go p.withdrawStrays()
	}
}

// Publish implements controllers.Publisher. The service is told first, so that it knows a gateway when an Envoy asks about it.
func (p *publisher) Publish(ctx context.Context, n controllers.Publication) error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	p.feed.Publish(n.Table, n.Mark)
	gateways := n.Table.Gateways()
	p.keeper.Update(gateways, n.Content.Usable, n.Content.Value)
	settings := p.settings
	settings.Secrets, settings.SystemRoots = p.keeper.Value, p.keeper.SystemRoots()
	if name, without := lacksRoots(gateways, &settings); without {
		p.log.WarnContext(ctx, "requests to backends with trust: System are answered 503: this machine has no certificates of authorities; name a file by SSL_CERT_FILE",
			"gateway", name.String())
	}
	unbuilt, errs := map[policy.Name]string{}, []error(nil)
	unchanged := make([]policy.Name, 0, len(gateways))
	for _, g := range gateways {
		// Its Envoys keep what they have: without the Secret they would be told to serve less.
		if slices.ContainsFunc(g.Secrets(), func(u policy.SecretUse) bool { return n.Content.Unread(u.Secret) }) {
			unbuilt[g.Name] = "A Secret that the gateway names could not be read yet; it is tried again."
			continue
		}
		now := newTold(g, &settings)
		if last := p.served[g.Name]; last.same(now) {
			unchanged = append(unchanged, g.Name)
			continue
		}
		resources, err := envoy.Build(g, settings)
		if err == nil {
			err = p.xds.Publish(ctx, g.Name, resources, n.Mark)
		}
		if err != nil {
			now, unbuilt[g.Name] = told{}, err.Error()
			errs = append(errs, err)
		}
		p.served[g.Name] = now
	}
	p.xds.Advance(unchanged, n.Mark)
	p.mu.Lock()
	p.mark, p.unbuilt, p.there = n.Mark, unbuilt, map[policy.Name]bool{}
	for _, name := range n.Gateways {
		p.there[name] = true
		delete(p.strays, name)
	}
	p.mu.Unlock()
	errs = append(errs, p.withdraw(ctx))
	p.tell()
	return errors.Join(errs...)
}

// withdrawStrays is withdraw for when nothing is published. It must not run where the xDS server calls.
func (p *publisher) withdrawStrays() {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if err := p.withdraw(context.Background()); err != nil { //nolint:forbidigo // No request is behind it, and nothing is waited for.
		p.log.Error("could not take a gateway that is gone from its Envoys", "error", err)
	}
}

// withdraw takes gateways that are gone from the Envoys that have them. One that is there and not in the Table was never
// accepted as far as anybody knows: its Envoys keep what they have.
func (p *publisher) withdraw(ctx context.Context) error {
	var errs []error
	for _, name := range p.goneNow() {
		p.log.WarnContext(ctx, "Envoys are connected, or were, as a QuotaGateway that is not there; they serve nothing", "node.cluster", name.String())
		if err := p.xds.Withdraw(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("withdrawing gateway %s: %w", name, err))
			continue
		}
		delete(p.served, name)
		p.mu.Lock()
		p.strays[name] = true
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// goneNow lists the gateways that are not there and whose Envoys were not told so.
func (p *publisher) goneNow() (names []policy.Name) {
	connected := p.xds.Gateways()
	p.mu.Lock()
	defer p.mu.Unlock()
	strays := map[policy.Name]bool{} // what nobody is connected as is forgotten
	for _, cluster := range connected {
		name, ok := gatewayOf(cluster)
		switch {
		case !ok || p.there[name]:
		case p.strays[name]:
			strays[name] = true
		default:
			names = append(names, name)
		}
	}
	p.strays = strays
	for name := range p.served {
		if !p.there[name] && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// gatewayOf reads what an Envoy says of itself.
func gatewayOf(cluster string) (policy.Name, bool) {
	namespace, name, ok := strings.Cut(cluster, "/")
	return policy.Name{Namespace: namespace, Name: name}, ok && namespace != "" && name != ""
}

// lacksRoots names a gateway that trusts what the machine trusts, where that is nobody.
func lacksRoots(gateways []*policy.Gateway, s *envoy.Settings) (policy.Name, bool) {
	if len(s.SystemRoots) > 0 || s.Upstream != nil {
		return policy.Name{}, false
	}
	for _, g := range gateways {
		if slices.ContainsFunc(g.Backends, func(b policy.Backend) bool { return b.TLS != nil && b.TLS.CABundle == nil }) {
			return g.Name, true
		}
	}
	return policy.Name{}, false
}

// Acknowledged implements controllers.Publisher.
func (p *publisher) Acknowledged() controllers.Acknowledged {
	p.mu.Lock()
	mark, unbuilt, there := p.mark, p.unbuilt, p.there
	p.mu.Unlock()
	a := controllers.Acknowledged{Gateways: map[policy.Name]controllers.Fleet{}, Services: servicesOf(p.feed.Clients())}
	for _, cluster := range p.xds.Gateways() {
		// Whoever may connect can make up names; what is said of real gateways must not be lost among them.
		if name, ok := gatewayOf(cluster); ok && there[name] {
			a.Gateways[name] = fleetOf(p.xds.Envoys(name), mark)
		}
	}
	for name, words := range unbuilt {
		f := a.Gateways[name]
		f.Untold = words
		a.Gateways[name] = f
	}
	return a
}

// servicesOf are as far as the last of them.
func servicesOf(clients []feed.Client) controllers.Services {
	s := controllers.Services{Connected: len(clients), Refused: map[policy.Object]string{}}
	for i, client := range clients {
		if i == 0 || client.Mark < s.Mark {
			s.Mark = client.Mark
		}
		for object, words := range client.Refused {
			s.Refused[object] = client.Node + ": " + words
		}
	}
	return s
}

// fleetOf is as far as the last of the Envoys.
func fleetOf(envoys []server.Envoy, mark uint64) controllers.Fleet {
	f := controllers.Fleet{Connected: len(envoys)}
	for i, e := range envoys {
		if i == 0 || e.Mark < f.Mark {
			f.Mark = e.Mark
		}
		switch {
		case e.Rejected != "" && f.Rejected == "":
			f.Rejected = e.Node + ": " + e.Rejected
		case mark > 0 && e.Mark >= mark: // Before anything is published nobody has it.
			f.Current++
		}
	}
	return f
}
