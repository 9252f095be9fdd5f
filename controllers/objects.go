package controllers

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// kinds makes an empty object of each kind of ours.
var kinds = map[string]func() client.Object{
	policy.KindTier:    func() client.Object { return &v1alpha1.RateLimitTier{} },
	policy.KindModel:   func() client.Object { return &v1alpha1.ModelLimit{} },
	policy.KindQuota:   func() client.Object { return &v1alpha1.ApiKeyQuota{} },
	policy.KindUser:    func() client.Object { return &v1alpha1.UserQuota{} },
	policy.KindGateway: func() client.Object { return &v1alpha1.QuotaGateway{} },
}

// Kinds of objects that are not ours, as in progress.
const (
	kindSecret    = "Secret"
	kindNamespace = "Namespace"
)

// objects are lists of all kinds that are read.
type objects struct {
	tiers      v1alpha1.RateLimitTierList
	models     v1alpha1.ModelLimitList
	quotas     v1alpha1.ApiKeyQuotaList
	users      v1alpha1.UserQuotaList
	gateways   v1alpha1.QuotaGatewayList
	namespaces corev1.NamespaceList
}

// input shares memory with the lists.
func (o *objects) input() policy.Input {
	in := policy.Input{
		Tiers: pointers(o.tiers.Items), Models: pointers(o.models.Items), Quotas: pointers(o.quotas.Items), Users: pointers(o.users.Items),
		Gateways: pointers(o.gateways.Items),
	}
	for i := range o.namespaces.Items {
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: o.namespaces.Items[i].Name, Labels: o.namespaces.Items[i].Labels})
	}
	return in
}

func pointers[T any](list []T) []*T {
	all := make([]*T, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	return all
}

// statusOf is the part of status that all kinds of ours have.
func statusOf(o client.Object) *v1alpha1.ObjectStatus {
	switch o := o.(type) {
	case *v1alpha1.RateLimitTier:
		return &o.Status.ObjectStatus
	case *v1alpha1.ModelLimit:
		return &o.Status.ObjectStatus
	case *v1alpha1.ApiKeyQuota:
		return &o.Status.ObjectStatus
	case *v1alpha1.UserQuota:
		return &o.Status.ObjectStatus
	case *v1alpha1.QuotaGateway:
		return &o.Status.ObjectStatus
	default:
		return &v1alpha1.ObjectStatus{}
	}
}

// lastAcceptedOf is nil for kinds that do not go on.
func lastAcceptedOf(o client.Object) *v1alpha1.LastAccepted {
	switch o := o.(type) {
	case *v1alpha1.ApiKeyQuota:
		return o.Status.LastAccepted
	case *v1alpha1.QuotaGateway:
		return o.Status.LastAccepted
	default:
		return nil
	}
}

func objectName(o client.Object) policy.Name {
	return policy.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// versionOf is the resource version as a number; the API server says that it is one.
func versionOf(o client.Object) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64) // 0 of what no API server wrote
	return n
}

// parseName reads "namespace/name".
func parseName(s string) policy.Name {
	namespace, name, _ := strings.Cut(s, "/")
	return policy.Name{Namespace: namespace, Name: name}
}
