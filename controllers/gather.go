package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A gatherer has one view of the cluster after another. Quotas and Secrets, of which there may be very many, it takes from events,
// one by one; all else it reads from the cache at each view. Its methods but note are for one goroutine at a time.
type gatherer struct {
	cache      client.Reader
	labels     *unlabelled
	namespaces []string // whose Secrets are read; none: all

	mu     sync.Mutex
	quotas quotaList
	fresh  map[policy.Name]*corev1.Secret // since the last view; nil: it is gone

	secrets    map[policy.Name]policy.Secret // those of the last view
	versions   map[policy.Name]string        // of those that may be read
	unlabelled []policy.Name                 // the others
}

func newGatherer(cache client.Reader, labels *unlabelled, namespaces []string) *gatherer {
	return &gatherer{
		cache: cache, labels: labels, namespaces: namespaces, quotas: quotaList{at: map[policy.Name]int{}}, fresh: map[policy.Name]*corev1.Secret{},
		secrets: map[policy.Name]policy.Secret{}, versions: map[policy.Name]string{},
	}
}

// note takes in an event: an object as it is now, or as it was before it was deleted. It may be called from many goroutines.
func (g *gatherer) note(o client.Object, there bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch o := o.(type) {
	case *v1alpha1.ApiKeyQuota:
		if there && o.DeletionTimestamp == nil { // A finalizer must not keep a key alive that somebody has ended.
			g.quotas.set(o)
		} else {
			g.quotas.delete(objectName(o))
		}
	case *corev1.Secret:
		g.fresh[objectName(o)] = nil
		if there {
			g.fresh[objectName(o)] = o
		}
	}
}

// gather has everything but LastAccepted. What it returns shares memory with the cache and must not be changed; its Secrets
// hold until the next view.
func (g *gatherer) gather(ctx context.Context) (policy.Input, error) {
	var o objects
	for _, list := range []client.ObjectList{&o.tiers, &o.models, &o.users, &o.gateways, &o.namespaces} {
		if err := g.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return policy.Input{}, fmt.Errorf("gathering: %w", err)
		}
	}
	in := o.input()
	in.SecretNamespaces = g.namespaces
	g.mu.Lock()
	defer g.mu.Unlock()
	in.Quotas = slices.Clone(g.quotas.all)
	if err := g.read(); err != nil {
		return in, err
	}
	in.Secrets = g.secrets
	g.unlabelled = g.labels.among(missing(&in))
	for _, name := range g.unlabelled {
		g.secrets[name] = policy.Secret{}
	}
	return in, nil
}

// read brings the Secrets up to date.
func (g *gatherer) read() error {
	for _, name := range g.unlabelled {
		delete(g.secrets, name)
	}
	g.unlabelled = nil
	for name, s := range g.fresh {
		if s == nil {
			delete(g.secrets, name)
			delete(g.versions, name)
		} else {
			secret, err := readDigested(s)
			if err != nil {
				return fmt.Errorf("reading Secret %s: %w", name, err)
			}
			g.secrets[name], g.versions[name] = secret, s.ResourceVersion
		}
		delete(g.fresh, name)
	}
	return nil
}

// version is the resource version of a Secret that may be read, as the last view has it.
func (g *gatherer) version(name policy.Name) (string, bool) {
	version, known := g.versions[name]
	return version, known
}

// A quotaList has quotas in an order that stays, but for those that are deleted.
type quotaList struct {
	all []*v1alpha1.ApiKeyQuota
	at  map[policy.Name]int
}

func (l *quotaList) set(q *v1alpha1.ApiKeyQuota) {
	name := objectName(q)
	if i, known := l.at[name]; known {
		l.all[i] = q
		return
	}
	l.at[name] = len(l.all)
	l.all = append(l.all, q)
}

// delete puts the last in the place of the one that is gone.
func (l *quotaList) delete(name policy.Name) {
	i, known := l.at[name]
	if !known {
		return
	}
	last := len(l.all) - 1
	l.all[i] = l.all[last]
	l.at[objectName(l.all[i])] = i
	delete(l.at, name)
	l.all[last] = nil
	l.all = l.all[:last]
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
	for _, q := range in.Quotas {
		for i := range q.Spec.Keys {
			if ref := q.Spec.Keys[i].SecretKeyRef; ref != nil {
				add(q.Namespace, ref.Name)
			}
		}
	}
	for _, g := range in.Gateways {
		for _, use := range policy.SecretUses(g) {
			add(use.Secret.Namespace, use.Secret.Name)
		}
	}
	return all
}
