package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const (
	usagePath = "/admin/usage"
	// maxUsages bounds an answer. It has the keys that use most.
	maxUsages = 100
)

// Usages is the answer to GET: what keys use now.
type Usages struct {
	Usage []ratelimit.KeyUsage `json:"usage"`
	More  int                  `json:"more"` // keys that use no larger part of any limit
	// Alone says that Redis is out: what other replicas have admitted since is not in it.
	Alone bool `json:"alone,omitempty"`
}

// errNoKey says that there is no such key, or none that may be used.
var errNoKey = errors.New("there is no such key")

// usage answers GET /admin/usage?key=NAMESPACE/NAME, and ?namespace=NAMESPACE or nothing for all keys, the most used first.
func usage(s Service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		asked := r.URL.Query()
		key, namespace := asked.Get("key"), asked.Get("namespace")
		name, err := parseKey(key)
		if err != nil || key != "" && namespace != "" {
			fail(w, http.StatusBadRequest, "Ask for one key, by key=NAMESPACE/NAME of its ApiKeyQuota, or for all keys of one namespace, by namespace=NAMESPACE.")
			return
		}
		list, err := usageOf(r.Context(), s, name, namespace)
		switch {
		case errors.Is(err, errNoKey):
			fail(w, http.StatusNotFound, fmt.Sprintf("There is no ApiKeyQuota %s, or it was never accepted. GET %s lists those that are in force.", name, usagePath))
		case err != nil:
			fail(w, http.StatusServiceUnavailable, "The usage cannot be read: "+err.Error()+".")
		default:
			answer(w, http.StatusOK, list)
		}
	}
}

// parseKey reads NAMESPACE/NAME, or nothing.
func parseKey(key string) (name policy.Name, err error) {
	if key == "" {
		return name, nil
	}
	namespace, rest, found := strings.Cut(key, "/")
	if !found || namespace == "" || rest == "" {
		return name, fmt.Errorf("%q is not NAMESPACE/NAME", key)
	}
	return policy.Name{Namespace: namespace, Name: rest}, nil
}

func usageOf(ctx context.Context, s Service, key policy.Name, namespace string) (list Usages, err error) {
	list.Alone = s.Alone()
	defer func() { list.Alone = list.Alone || s.Alone() }() // Redis may be found to be out by being asked.
	if key == (policy.Name{}) {
		list.Usage, list.More, err = s.KeyUsages(ctx, namespace, maxUsages)
		if list.Usage == nil {
			list.Usage = []ratelimit.KeyUsage{} // [], and not null
		}
		return list, err //nolint:wrapcheck // The service says what failed.
	}
	one, known, err := s.KeyUsage(ctx, key)
	if err == nil && !known {
		err = errNoKey
	}
	list.Usage = []ratelimit.KeyUsage{one}
	return list, err
}

// KeyUsage is how much one key uses of every limit that counts for it or its user: without an error it is of one key. The key is the name of
// its ApiKeyQuota.
func (c *Client) KeyUsage(ctx context.Context, key policy.Name) (Usages, error) {
	list, err := c.usage(ctx, "key", key.String())
	if err == nil && len(list.Usage) != 1 {
		err = fmt.Errorf("%s answers for %d keys where one was asked for, and may be no admin address", c.base, len(list.Usage))
	}
	return list, err
}

// KeyUsages lists the keys of a namespace, or all if it is empty, the most used first, at most 100.
func (c *Client) KeyUsages(ctx context.Context, namespace string) (Usages, error) {
	return c.usage(ctx, "namespace", namespace)
}

func (c *Client) usage(ctx context.Context, parameter, value string) (list Usages, err error) {
	err = c.do(ctx, http.MethodGet, usagePath+"?"+url.Values{parameter: {value}}.Encode(), &list)
	return list, err
}
