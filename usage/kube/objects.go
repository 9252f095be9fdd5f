// Package kube decides how what is used gets into a cluster: which fields of which objects are written, and by whose name, and
// which of several replicas does it.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/usage"
)

// Manager is the name by which the API server knows who writes usage. The operator, which writes the rest of a status, has another.
const Manager = "tierkeeper-ratelimit"

// timeout is that of one request to the API server.
const timeout = 10 * time.Second

// Objects are those of a cluster. It is the usage.Writer and the usage.Events of one usage.Reporter.
//
// The service needs to get and list ApiKeyQuotas and UserQuotas, to patch their status, and to create and patch events of
// events.k8s.io.
type Objects struct {
	client   client.Client
	recorder events.EventRecorder
	written  corev1.ObjectReference // what was written last
}

var (
	_ usage.Writer = (*Objects)(nil)
	_ usage.Events = (*Objects)(nil)
)

// NewObjects is for the API server of the configuration. Events are sent until ctx ends; those that cannot be are told to the log.
func NewObjects(ctx context.Context, config *rest.Config, log *slog.Logger) (*Objects, error) {
	config = unhurried(config)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering the kinds of %s: %w", v1alpha1.GroupVersion, err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for events: %w", err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: set.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(logr.NewContextWithSlogLogger(ctx, log)); err != nil {
		return nil, fmt.Errorf("starting to send events: %w", err)
	}
	context.AfterFunc(ctx, broadcaster.Shutdown)
	return &Objects{client: client.WithFieldOwner(c, Manager), recorder: broadcaster.NewRecorder(scheme, Manager)}, nil
}

// unhurried is the configuration without a rate of its own: the Reporter has one.
func unhurried(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.QPS, config.Timeout = -1, timeout
	return rest.AddUserAgent(config, Manager)
}

// Last implements usage.Writer. It reads objects in pages.
func (o *Objects) Last(ctx context.Context, visit func(policy.Object, usage.Status)) error {
	err := o.each(ctx, func() client.ObjectList { return &v1alpha1.ApiKeyQuotaList{} }, func(object runtime.Object) {
		q := object.(*v1alpha1.ApiKeyQuota) //nolint:forcetypeassert // The list holds nothing else.
		show(policy.KindQuota, q, q.Status.Usage, q.Status.Conditions, visit)
	})
	if err != nil {
		return fmt.Errorf("listing ApiKeyQuotas: %w", err)
	}
	err = o.each(ctx, func() client.ObjectList { return &v1alpha1.UserQuotaList{} }, func(object runtime.Object) {
		u := object.(*v1alpha1.UserQuota) //nolint:forcetypeassert // The list holds nothing else.
		show(policy.KindUser, u, u.Status.Usage, u.Status.Conditions, visit)
	})
	if err != nil {
		return fmt.Errorf("listing UserQuotas: %w", err)
	}
	return nil
}

func (o *Objects) each(ctx context.Context, list func() client.ObjectList, do func(runtime.Object)) error {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		page := list()
		err := o.client.List(ctx, page, &client.ListOptions{Limit: options.Limit, Continue: options.Continue})
		return page, err //nolint:wrapcheck // The pager looks at it.
	})
	return pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error { //nolint:wrapcheck // The caller says what was listed.
		do(object)
		return nil
	})
}

// show visits an object whose status tells of its use.
func show(kind string, o client.Object, u *v1alpha1.Usage, conditions []metav1.Condition, visit func(policy.Object, usage.Status)) {
	if u == nil {
		return
	}
	s := usage.Status{Usage: u}
	for _, c := range conditions {
		if c.Type == v1alpha1.ConditionApproachingLimit || c.Type == v1alpha1.ConditionExhausted {
			s.Conditions = append(s.Conditions, c)
		}
	}
	visit(policy.Object{Kind: kind, Name: policy.Name{Namespace: o.GetNamespace(), Name: o.GetName()}}, s)
}

// Write implements usage.Writer: it applies what it is told, and so owns that and nothing else.
func (o *Objects) Write(ctx context.Context, object policy.Object, s usage.Status) error {
	now := &metav1.PartialObjectMetadata{}
	now.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(object.Kind))
	err := o.client.Get(ctx, client.ObjectKey{Namespace: object.Namespace, Name: object.Name.Name}, now)
	if err == nil {
		err = o.apply(ctx, now, s)
	}
	switch {
	case apierrors.IsNotFound(err):
		return usage.ErrGone
	case err != nil:
		return fmt.Errorf("writing the status of %s: %w", object, err)
	}
	o.written = corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: object.Kind, Namespace: object.Namespace, Name: object.Name.Name, UID: now.UID,
	}
	return nil
}

func (o *Objects) apply(ctx context.Context, now *metav1.PartialObjectMetadata, s usage.Status) error {
	// The form of both kinds.
	status := v1alpha1.UserQuotaStatus{Usage: s.Usage}
	for _, c := range s.Conditions {
		c.ObservedGeneration = now.Generation
		status.Conditions = append(status.Conditions, c)
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err //nolint:wrapcheck // The caller says what was written.
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": fields}}
	u.SetGroupVersionKind(now.GroupVersionKind())
	u.SetNamespace(now.Namespace)
	u.SetName(now.Name)
	u.SetUID(now.UID)                                                                                        // or another object of the same name could get what is none of it
	return o.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.ForceOwnership) //nolint:wrapcheck // The caller says what was written.
}

// Reached implements usage.Events.
func (o *Objects) Reached(r usage.Reached) {
	regarding := o.written
	// Events that differ in their words alone become one, so limits and thresholds must be told apart by more.
	regarding.FieldPath = fmt.Sprintf("status.usage.limits[id=%s]", r.Limit)
	o.recorder.Eventf(&regarding, nil, corev1.EventTypeWarning, v1alpha1.ReasonThresholdReached, fmt.Sprintf("Reached%dPercent", r.Percent), "%s", r.Message)
}
