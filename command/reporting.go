package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/election"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/standalone"
	"github.com/tierkeeper/tierkeeper/usage"
	"github.com/tierkeeper/tierkeeper/usage/kube"
)

// usageLease is the lease of the replica of the rate-limit service that writes usage.
const usageLease = "tierkeeper-usage"

// reportingOptions say whether, and how, the service writes usage into the objects of a cluster.
type reportingOptions struct {
	cluster   clusterOptions
	namespace string
	writes    int
}

func (o *reportingOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	o.cluster.addFlags(cmd)
	flags.StringVar(&o.namespace, "namespace", "", "namespace of the service, where its lease stands (default: that of its pod)")
	flags.IntVar(&o.writes, "usage-writes-per-second", usage.DefaultWritesPerSecond, "most writes of usage into objects, whatever the traffic; 0 writes none")
}

// complete adds the writer to a service that follows an operator.
func (o *reportingOptions) complete(ctx context.Context, c *standalone.ServiceConfig) error {
	if c.Operator == "" || o.writes == 0 {
		return nil
	}
	if o.writes < 0 {
		return errors.New("--usage-writes-per-second must not be negative")
	}
	cluster, err := o.cluster.config()
	if err != nil {
		return fmt.Errorf("%w; or write no usage into objects, with --usage-writes-per-second 0", err)
	}
	if o.namespace == "" {
		if o.namespace = ownNamespace(); o.namespace == "" {
			return errors.New("--namespace is missing: outside of a pod nothing else tells where the service's lease is to stand")
		}
	}
	objects, err := kube.NewObjects(ctx, cluster, c.Log)
	if err != nil {
		return err
	}
	vote := election.Election{Config: cluster, Namespace: o.namespace, Name: usageLease, Identity: c.Identity, Log: c.Log}
	c.Beside = func(l *ratelimit.Limiter) (func(context.Context) error, prometheus.Collector) {
		reporter := usage.NewReporter(l, objects, objects, usage.WithWritesPerSecond(o.writes), usage.WithLog(c.Log))
		return func(ctx context.Context) error { return vote.Lead(ctx, reporter.Run) }, reporter
	}
	return nil
}
