package controllers

// What the operator may do is written here and nowhere else; config/rbac/operator/role.yaml is made of it. Nothing of the cluster is written but
// the status of our own kinds, Events, and leases in the operator's own namespace. Secrets can be listed and watched as a whole only:
// Kubernetes knows no right to those with a label. What that permits, and how to take it back, stands in docs/security.md.
//
// +kubebuilder:rbac:groups=tierkeeper.io,resources=ratelimittiers;modellimits;apikeyquotas;userquotas;quotagateways,verbs=list;watch
// +kubebuilder:rbac:groups=tierkeeper.io,resources=ratelimittiers/status;modellimits/status;apikeyquotas/status;userquotas/status;quotagateways/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tierkeeper,resources=leases,verbs=get;list;watch;create;update;delete
//
// To ask the cluster who reads metrics:
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create
