package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A gatherer reads one view of the cluster from the cache. It is not safe for concurrent use.
type gatherer struct {
	cache      client.Reader
	labels     *unlabelled
	namespaces []string // whose Secrets are read; none: all

	secrets    map[policy.Name]policy.Secret // those of the last view
	versions   map[policy.Name]string        // of those that were read
	unlabelled []policy.Name                 // the others
}

// gather reads everything but LastAccepted. What it returns shares memory with the cache and must not be changed; its Secrets
// hold until the next view.
func (g *gatherer) gather(ctx context.Context) (policy.Input, error) {
	var (
		tiers      v1alpha1.RateLimitTierList
		models     v1alpha1.ModelLimitList
		quotas     v1alpha1.ApiKeyQuotaList
		users      v1alpha1.UserQuotaList
		gateways   v1alpha1.QuotaGatewayList
		namespaces corev1.NamespaceList
		secrets    corev1.SecretList
	)
	for _, list := range []client.ObjectList{&tiers, &models, &quotas, &users, &gateways, &namespaces, &secrets} {
		if err := g.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return policy.Input{}, fmt.Errorf("gathering: %w", err)
		}
	}
	in := policy.Input{Tiers: tiers.Items, Models: models.Items, Quotas: quotas.Items, Users: users.Items, Gateways: gateways.Items, SecretNamespaces: g.namespaces}
	for i := range namespaces.Items {
		n := &namespaces.Items[i]
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: n.Name, Labels: n.Labels})
	}
	if err := g.read(secrets.Items); err != nil {
		return in, err
	}
	in.Secrets = g.secrets
	g.unlabelled = g.labels.among(missing(&in))
	for _, name := range g.unlabelled {
		g.secrets[name] = policy.Secret{}
	}
	return in, nil
}

// read brings the Secrets up to date, each of which is read once for each version.
func (g *gatherer) read(items []corev1.Secret) error {
	if g.secrets == nil {
		g.secrets, g.versions = make(map[policy.Name]policy.Secret, len(items)), make(map[policy.Name]string, len(items))
	}
	for _, name := range g.unlabelled {
		delete(g.secrets, name)
	}
	g.unlabelled = nil
	for i := range items {
		s := &items[i]
		name := policy.Name{Namespace: s.Namespace, Name: s.Name}
		if version, known := g.versions[name]; known && version == s.ResourceVersion {
			continue
		}
		secret, err := readDigested(s)
		if err != nil {
			return fmt.Errorf("reading Secret %s: %w", name, err)
		}
		g.secrets[name], g.versions[name] = secret, s.ResourceVersion
	}
	if len(g.versions) > len(items) {
		g.forget(items)
	}
	return nil
}

// forget drops the Secrets that are there no more.
func (g *gatherer) forget(items []corev1.Secret) {
	there := make(map[policy.Name]bool, len(items))
	for i := range items {
		there[policy.Name{Namespace: items[i].Namespace, Name: items[i].Name}] = true
	}
	for name := range g.versions {
		if !there[name] {
			delete(g.secrets, name)
			delete(g.versions, name)
		}
	}
}

// missing names the Secrets that objects name and that are not there, each once. Those that are not read may be there.
func missing(in *policy.Input) []policy.Name {
	var all []policy.Name
	found := map[policy.Name]bool{}
	add := func(namespace, name string) {
		n := policy.Name{Namespace: namespace, Name: name}
		if _, known := in.Secrets[n]; !known && !found[n] && in.ReadsSecrets(namespace) {
			found[n] = true
			all = append(all, n)
		}
	}
	for i := range in.Quotas {
		for _, k := range in.Quotas[i].Spec.Keys {
			if k.SecretKeyRef != nil {
				add(in.Quotas[i].Namespace, k.SecretKeyRef.Name)
			}
		}
	}
	for i := range in.Gateways {
		for _, use := range policy.SecretUses(&in.Gateways[i]) {
			add(use.Secret.Namespace, use.Secret.Name)
		}
	}
	return all
}
