package controllers

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/tierkeeper/tierkeeper/election"
)

// electionLease is the lease of the replica that writes status.
const electionLease = "tierkeeper-operator"

// term has status written by the elected replica. (The election of controller-runtime ends the process that loses it, and with it
// the connections of Envoys and services.)
type term struct {
	election election.Election
	status   *status
}

func newTerm(mgr ctrl.Manager, o *Options, s *status) *term {
	return &term{election.Election{
		Config: mgr.GetConfig(), Namespace: o.Namespace, Name: electionLease, Identity: o.Identity, Lasts: o.LeaseDuration,
		Log: slog.New(logr.ToSlogHandler(mgr.GetLogger())),
	}, s}
}

// NeedLeaderElection says that every replica stands for election.
func (*term) NeedLeaderElection() bool { return false }

// Start stands for election, again and again, until ctx ends.
func (t *term) Start(ctx context.Context) error {
	return t.election.Lead(ctx, func(ctx context.Context) error {
		t.status.run(ctx)
		return nil
	})
}
