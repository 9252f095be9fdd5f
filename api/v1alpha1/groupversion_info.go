package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and the version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "tierkeeper.io", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&RateLimitTier{}, &RateLimitTierList{},
		&ModelLimit{}, &ModelLimitList{},
		&ApiKeyQuota{}, &ApiKeyQuotaList{},
		&UserQuota{}, &UserQuotaList{},
		&QuotaGateway{}, &QuotaGatewayList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
})

// AddToScheme registers the kinds of this package with a scheme.
var AddToScheme = schemeBuilder.AddToScheme

// SecretLabel marks a Secret that Tierkeeper may read; its value is "true". An unlabelled Secret is never looked into.
const SecretLabel = "tierkeeper.io/secret"
