package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// Once reads what counts for the ApiKeyQuotas of one namespace, as somebody may who has no right to Secrets: which quotas have
// their keys in order, and what those go on with that are refused, it takes from their status. The keys in the Input are made up.
// Namespaces, and gateways of other namespaces, are left out where they may not be read.
func Once(ctx context.Context, c client.Reader, namespace string) (policy.Input, error) {
	var (
		tiers      v1alpha1.RateLimitTierList
		models     v1alpha1.ModelLimitList
		quotas     v1alpha1.ApiKeyQuotaList
		users      v1alpha1.UserQuotaList
		gateways   v1alpha1.QuotaGatewayList
		namespaces corev1.NamespaceList
	)
	own := client.InNamespace(namespace)
	for _, list := range []struct {
		client.ObjectList
		options []client.ListOption
		dear    bool // nothing can be said without it
	}{
		{&tiers, nil, true},
		{&models, nil, true},
		{&quotas, []client.ListOption{own}, true},
		{&users, []client.ListOption{own}, true},
		{&namespaces, nil, false},
		{&gateways, nil, false},
	} {
		err := c.List(ctx, list.ObjectList, list.options...)
		if err != nil && (list.dear || !apierrors.IsForbidden(err)) {
			return policy.Input{}, fmt.Errorf("reading the cluster: %w", err)
		}
	}
	if len(gateways.Items) == 0 {
		if err := c.List(ctx, &gateways, own); err != nil && !apierrors.IsForbidden(err) {
			return policy.Input{}, fmt.Errorf("reading the cluster: %w", err)
		}
	}
	in := policy.Input{Tiers: tiers.Items, Models: models.Items, Quotas: quotas.Items, Users: users.Items, Gateways: gateways.Items}
	for i := range namespaces.Items {
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: namespaces.Items[i].Name, Labels: namespaces.Items[i].Labels})
	}
	in.LastAccepted = lastAccepted(&policy.Table{}, in.Quotas, in.Gateways)
	for i := range in.Quotas {
		if q := &in.Quotas[i]; !refused(&q.Status.ObjectStatus, q.Generation) {
			makeUpKeys(q)
		}
	}
	return in, nil
}

// makeUpKeys gives a quota keys that nobody else has. One that is refused keeps its own, which cannot be read here: it stays refused.
func makeUpKeys(q *v1alpha1.ApiKeyQuota) {
	for i := range q.Spec.Keys {
		k := &q.Spec.Keys[i]
		k.SecretKeyRef, k.Digest = nil, policy.HashKey(fmt.Appendf(nil, "%s %s", objectName(q), k.Name)).String()
	}
}
