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
	cache   client.Reader
	labels  *unlabelled
	digests map[policy.Name]digestedSecret
	sure    bool // whether every Secret that is named was looked for, as of the last gather
}

// digestedSecret is what was read of a Secret at a resource version.
type digestedSecret struct {
	version string
	policy.Secret
}

// gather reads everything but LastAccepted. What it returns shares memory with the cache and must not be changed.
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
	in := policy.Input{Tiers: tiers.Items, Models: models.Items, Quotas: quotas.Items, Users: users.Items, Gateways: gateways.Items}
	for i := range namespaces.Items {
		n := &namespaces.Items[i]
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: n.Name, Labels: n.Labels})
	}
	var err error
	in.Secrets, err = g.secrets(secrets.Items, &in)
	return in, err
}

// secrets reads digested Secrets, each once for each version, and adds those that are there without the label.
func (g *gatherer) secrets(items []corev1.Secret, in *policy.Input) (map[policy.Name]policy.Secret, error) {
	next := make(map[policy.Name]digestedSecret, len(items))
	all := make(map[policy.Name]policy.Secret, len(items))
	for i := range items {
		s := &items[i]
		name := policy.Name{Namespace: s.Namespace, Name: s.Name}
		read, known := g.digests[name]
		if !known || read.version != s.ResourceVersion {
			secret, err := readDigested(s)
			if err != nil {
				return nil, fmt.Errorf("reading Secret %s: %w", name, err)
			}
			read = digestedSecret{s.ResourceVersion, secret}
		}
		next[name], all[name] = read, read.Secret
	}
	g.digests = next
	var there []policy.Name
	there, g.sure = g.labels.among(missing(in, all))
	for _, name := range there {
		all[name] = policy.Secret{}
	}
	return all, nil
}

// missing names the Secrets that objects name and that are not there, each once.
func missing(in *policy.Input, there map[policy.Name]policy.Secret) []policy.Name {
	var all []policy.Name
	found := map[policy.Name]bool{}
	add := func(namespace, name string) {
		n := policy.Name{Namespace: namespace, Name: name}
		if _, known := there[n]; !known && !found[n] {
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
