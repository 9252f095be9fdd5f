package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// lookForGateways is how often new QuotaGateways are looked for.
const lookForGateways = 250 * time.Millisecond

// StartEnvoy runs one Envoy of a gateway, which asks the service at an address.
func (s *Stack) StartEnvoy(ctx context.Context, gateway, node, service string) (*Process, error) {
	dir, err := os.MkdirTemp(s.Dir, "envoy-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for Envoy: %w", err)
	}
	bootstrap := exec.CommandContext(ctx, s.Binary, append([]string{
		"bootstrap", "--gateway", gateway, "--node", node, "--xds", s.Front.Address(), "--service", service, "--dir", dir,
	}, s.certificates()...)...)
	if out, err := bootstrap.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("writing the bootstrap of an Envoy: %w: %s", err, out)
	}
	path := filepath.Join(dir, "envoy.yaml")
	return s.run(ctx, "envoy-"+strings.ReplaceAll(node, "/", "-"), nil, s.Envoy, "-c", path, "--disable-hot-restart", "-l", "warning")
}

// KeepEnvoys runs an Envoy for each QuotaGateway that appears, until ctx ends. All of them are on one machine, so a gateway that
// names a port of another waits until that is gone: two Envoys would share the port and each answer a part of the requests.
func (s *Stack) KeepEnvoys(ctx context.Context, service string) error {
	running, told := map[string]bool{}, map[string]bool{}
	ticker := time.NewTicker(lookForGateways)
	defer ticker.Stop()
	for {
		var gateways v1alpha1.QuotaGatewayList
		if err := s.Client.List(ctx, &gateways); err != nil && ctx.Err() == nil {
			s.Say("could not look for gateways: %v", err)
		}
		for i := range gateways.Items {
			g := &gateways.Items[i]
			name := fullName(g)
			if running[name] {
				continue
			}
			if refusal := clash(g, gateways.Items, running); refusal != "" {
				if !told[refusal] {
					s.Say("%s", refusal)
				}
				told[refusal] = true
				continue
			}
			if _, err := s.StartEnvoy(ctx, name, g.Namespace+"-"+g.Name, service); err != nil {
				return err
			}
			running[name] = true
			s.Say("QuotaGateway %s: an Envoy serves %s", name, ports(g))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// clash says that a running gateway has a port of g; empty if none has.
func clash(g *v1alpha1.QuotaGateway, all []v1alpha1.QuotaGateway, running map[string]bool) string {
	for i := range all {
		other := &all[i]
		if !running[fullName(other)] {
			continue
		}
		for _, l := range g.Spec.Listeners {
			if slices.ContainsFunc(other.Spec.Listeners, func(o v1alpha1.Listener) bool { return o.Port == l.Port }) {
				return fmt.Sprintf("QuotaGateway %s: no Envoy serves it, because %s has its port %d on this machine; give spec.listeners[name=%s] another port, or delete %s",
					fullName(g), fullName(other), l.Port, l.Name, fullName(other))
			}
		}
	}
	return ""
}

func fullName(g *v1alpha1.QuotaGateway) string { return g.Namespace + "/" + g.Name }

func ports(g *v1alpha1.QuotaGateway) string {
	var all []string
	for _, l := range g.Spec.Listeners {
		all = append(all, fmt.Sprintf("%s://127.0.0.1:%d", strings.ToLower(string(l.Protocol)), l.Port))
	}
	return strings.Join(all, ", ")
}
