package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// readingTimeout is that of all Secrets together that one compilation reads: others wait for the next.
const readingTimeout = 30 * time.Second

// contents has what the Secrets that gateways name hold, and of no others. It is not safe for concurrent use.
type contents struct {
	api    client.Reader // past the cache, which has digests only
	all    map[policy.Name]content
	unread map[policy.Name]bool // that are there, and that this process has not been able to read yet
}

type content struct {
	version string // of the digested Secret for which it was read
	secret  policy.Secret
	data    map[string][]byte
}

// update reads what the gateways name and what has changed since. Versions has the resource versions of the Secrets that may be
// read. What cannot be read now stays as it was, and is in the error.
func (c *contents) update(ctx context.Context, gateways []*policy.Gateway, versions func(policy.Name) (string, bool)) error {
	ctx, cancel := context.WithTimeout(ctx, readingTimeout)
	defer cancel()
	next, unread, errs := map[policy.Name]content{}, map[policy.Name]bool{}, []error(nil)
	for _, g := range gateways {
		for _, use := range g.Secrets() {
			name := use.Secret
			version, there := versions(name)
			if _, done := next[name]; done || !there {
				continue
			}
			held, known := c.all[name]
			if !known || held.version != version {
				fresh, err := c.read(ctx, name, version)
				if err != nil {
					errs = append(errs, err)
				} else {
					held, known = fresh, true
				}
			}
			if known {
				next[name] = held
			} else {
				unread[name] = true
			}
		}
	}
	c.all, c.unread = next, unread
	return errors.Join(errs...)
}

func (c *contents) read(ctx context.Context, name policy.Name, version string) (content, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var s corev1.Secret
	if err := c.api.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name}, &s); err != nil {
		return content{}, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	if s.Labels[v1alpha1.SecretLabel] != "true" {
		return content{}, fmt.Errorf("reading Secret %s: it has lost its label %s", name, v1alpha1.SecretLabel)
	}
	return content{version, policy.ReadSecret(string(s.Type), s.Data), s.Data}, nil
}

// content says what may be told to Envoys: what was read may be newer than what was compiled, so it is judged by itself.
func (c *contents) content() Content {
	all, unread := c.all, c.unread
	return Content{
		Unread: func(name policy.Name) bool { return unread[name] },
		Usable: func(v policy.SecretValue) bool {
			held, known := all[v.Secret]
			if !known {
				return false
			}
			in := policy.Input{Secrets: map[policy.Name]policy.Secret{v.Secret: held.secret}}
			return in.Usable(v)
		},
		Value: func(v policy.SecretValue) []byte { return all[v.Secret].data[v.Key] },
	}
}
