package kube

// What the rate-limit service may do is written here and nowhere else; config/rbac/ratelimit/role.yaml is made of it. It reads no
// Secret, and writes nothing but usage and Events, and a lease in its own namespace.
//
// +kubebuilder:rbac:groups=tierkeeper.io,resources=apikeyquotas;userquotas,verbs=get;list
// +kubebuilder:rbac:groups=tierkeeper.io,resources=apikeyquotas/status;userquotas/status,verbs=patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tierkeeper,resources=leases,verbs=get;create;update
