// Package v1alpha1 is what the user says: the kinds of the API group tierkeeper.io.
//
// A RateLimitTier is a plan, a ModelLimit says what a model can bear, an ApiKeyQuota holds API keys on a tier, a
// UserQuota holds limits that all keys of one user share, and a QuotaGateway is a fleet of Envoys. What these say
// together is decided in package policy; nothing here has a default, so that a default can be changed there.
//
// +kubebuilder:object:generate=true
// +groupName=tierkeeper.io
package v1alpha1
