package command

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/operator"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

type operatorOptions struct {
	operator.Config

	cluster  clusterOptions
	upstream string
	logLevel string
}

func newOperator() *cobra.Command {
	var o operatorOptions
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Run the operator of a cluster",
		Long: `Run the operator of a cluster.

It watches RateLimitTiers, ModelLimits, ApiKeyQuotas, UserQuotas and QuotaGateways, the Secrets that carry the label
tierkeeper.io/secret=true, and the labels of namespaces. It tells Envoys and the rate-limit service what holds, over xDS, and
writes into the status of each object whether it is accepted and in force, and why not. Several replicas may run: each serves,
and the elected one writes status. While no operator runs, Envoys and the service go on with what they were told last.

Envoys and the service on other machines are answered with --cert, --key and --ca only: what they are told includes
certificates and keys at providers. Metrics are served over HTTPS to whom the cluster lets read them (a ClusterRole with the
nonResourceURL /metrics).`,
		Example: `  # In a cluster, with certificates that Envoys and the service know.
  {{name}} operator --address :8080 --cert /certs/tls.crt --key /certs/tls.key --ca /certs/ca.crt

  # On a machine of your own, against the cluster of your kubeconfig.
  {{name}} operator --kubeconfig ~/.kube/config --namespace tierkeeper --address 127.0.0.1:8080 --metrics-address none`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(); err != nil {
				return err
			}
			o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: logLevels[o.logLevel].own}))
			o.Serving = func(address string) {
				fmt.Fprintf(cmd.OutOrStdout(), "The operator answers Envoys and the rate-limit service on %s.\n", address)
			}
			spareMemory()
			return operator.Run(cmd.Context(), o.Config)
		}),
	}
	o.addFlags(cmd)
	return cmd
}

// spareMemory has garbage collected when it is half of what is in use: the operator holds much and has time. GOGC goes before.
func spareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

func (o *operatorOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	o.cluster.addFlags(cmd)
	flags.StringVar(&o.Namespace, "namespace", "", "namespace of the operator, where its leases stand (default: that of its pod)")
	flags.StringSliceVar(&o.SecretNamespaces, "secret-namespaces", nil, "namespaces whose Secrets are read, so that no right to others is needed (default: all)")
	flags.StringVar(&o.Identity, "identity", "", "name of this replica, unlike that of any other (default: the host name, which is that of the pod)")
	flags.StringVar(&o.Address, "address", "127.0.0.1:8080", "address at which Envoys and the rate-limit service ask; beyond loopback only with --cert, --key and --ca")
	addTLSFlags(cmd, &o.TLS)
	flags.StringVar(&o.MetricsAddress, "metrics-address", ":8443", `address of the metrics, over HTTPS; "none" serves none`)
	flags.StringVar(&o.HealthAddress, "health-address", ":8082", `address of /healthz and /readyz; "none" serves neither`)
	flags.StringVar(&o.PprofAddress, "pprof-address", "", "address of Go's profiler, which nothing protects (default: it is not served)")
	flags.StringVar(&o.BindAddress, "bind-address", "", "address that listeners of Envoys bind to (default: all)")
	flags.StringVar(&o.upstream, "upstream", "", "address that takes the place of every backend, as host:port, to try gateways without their providers")
	flags.DurationVar(&o.LeaseDuration, "lease-duration", controllers.DefaultLeaseDuration, "after which another replica writes status, if this one has stopped to answer")
	flags.Float64Var(&o.WritesPerSecond, "status-writes-per-second", controllers.DefaultWritesPerSecond, "most writes of status, whatever happens")
	addLogLevel(cmd, &o.logLevel, "")
}

func (o *operatorOptions) check() error {
	switch {
	case o.LeaseDuration < 3*time.Second:
		return errors.New("--lease-duration must be at least 3s")
	case o.WritesPerSecond <= 0:
		return errors.New("--status-writes-per-second must be more than 0")
	}
	if err := checkLogLevel(o.logLevel); err != nil {
		return err
	}
	if err := o.TLS.Complete(); err != nil {
		return err
	}
	if o.upstream == "" {
		return nil
	}
	at, err := envoy.SplitAddress(o.upstream)
	if err != nil {
		return fmt.Errorf("--upstream: %w", err)
	}
	o.Upstream = &at
	return nil
}

// complete finds what the flags leave open.
func (o *operatorOptions) complete() (err error) {
	o.Version = version()
	if o.Cluster, err = o.cluster.config(); err != nil {
		return err
	}
	if o.Namespace == "" {
		if o.Namespace = ownNamespace(); o.Namespace == "" {
			return errors.New("--namespace is missing: outside of a pod nothing else tells where the operator's leases are to stand")
		}
	}
	if o.Identity == "" {
		if o.Identity, err = os.Hostname(); err != nil {
			return fmt.Errorf("finding the name of this replica (or give it with --identity): %w", err)
		}
	}
	return nil
}
