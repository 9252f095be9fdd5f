package controllers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	lookEvery = 100 * time.Millisecond // between two looks at Secrets that are not watched: anybody can name any number of them
	lookAgain = 30 * time.Second       // after a look at a Secret that was not there
	lookRetry = 5 * time.Second
)

// unlabelled finds out which of the Secrets that objects name, and that are not among those that are watched, are there: they lack
// the label, and people should be told so. It asks for their metadata only. It is safe for concurrent use.
type unlabelled struct {
	api     client.Reader // past the cache
	clock   clock.WithTicker
	changed func() // called when among would answer otherwise

	mu     sync.Mutex
	wanted map[policy.Name]time.Time // when to look
	there  map[policy.Name]bool      // of those that were looked for
	served map[string]time.Time      // when a namespace had its turn
}

func newUnlabelled(api client.Reader, c clock.WithTicker, changed func()) *unlabelled {
	return &unlabelled{api: api, clock: c, changed: changed, wanted: map[policy.Name]time.Time{}, there: map[policy.Name]bool{}, served: map[string]time.Time{}}
}

// among returns those of the names that are known to be there, and has the others looked up.
func (u *unlabelled) among(names []policy.Name) (there []policy.Name) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, wanted, known, served := u.clock.Now(), make(map[policy.Name]time.Time, len(names)), map[policy.Name]bool{}, map[string]time.Time{}
	for _, n := range names {
		wanted[n] = now
		if at, known := u.wanted[n]; known {
			wanted[n] = at
		}
		served[n.Namespace] = u.served[n.Namespace]
		found, looked := u.there[n]
		if looked {
			known[n] = found
		}
		if found {
			there = append(there, n)
		}
	}
	u.wanted, u.there, u.served = wanted, known, served
	return there
}

// open reports whether a Secret that a compilation did not find is yet to be looked for, or was found since: it may lack the label
// only.
func (u *unlabelled) open(name policy.Name) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, wanted := u.wanted[name]
	there, looked := u.there[name]
	return wanted && (there || !looked)
}

// Start looks, one by one, until ctx ends.
func (u *unlabelled) Start(ctx context.Context) error {
	ticker := u.clock.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			if name, due := u.next(); due {
				u.look(ctx, name)
			}
		}
	}
}

// NeedLeaderElection says that every replica looks.
func (u *unlabelled) NeedLeaderElection() bool { return false }

// next is the one whose time has come for longest, of the namespace whose turn it is: anybody can name any number of Secrets.
func (u *unlabelled) next() (next policy.Name, due bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.clock.Now()
	for name, at := range u.wanted {
		if at.After(now) {
			continue
		}
		turn := u.served[name.Namespace].Compare(u.served[next.Namespace])
		if !due || turn < 0 || turn == 0 && at.Before(u.wanted[next]) {
			next, due = name, true
		}
	}
	if due {
		u.served[next.Namespace] = now
	}
	return next, due
}

func (u *unlabelled) look(ctx context.Context, name policy.Name) {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := u.api.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name}, secret)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) { // Who may not look cannot tell whether it is there.
		log.FromContext(ctx).Error(err, "could not look for a Secret", "secret", name.String())
		u.failed(name)
		return
	}
	if u.found(name, err == nil) {
		u.changed()
	}
}

func (u *unlabelled) failed(name policy.Name) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, still := u.wanted[name]; still {
		u.wanted[name] = u.clock.Now().Add(lookRetry)
	}
}

// found notes what a look found, and reports whether among would answer otherwise.
func (u *unlabelled) found(name policy.Name, there bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, still := u.wanted[name]; !still {
		return false
	}
	u.wanted[name] = u.clock.Now().Add(lookAgain)
	before := u.there[name]
	u.there[name] = there
	return before != there
}
