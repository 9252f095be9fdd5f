package command

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/standalone"
)

func newStandalone() *cobra.Command {
	var (
		c      standalone.Config
		port   uint16
		common commonFlags
	)
	cmd := &cobra.Command{
		Use:   "standalone --manifests DIR",
		Short: "Run everything in one process, without Kubernetes",
		Long: `Run everything in one process, without Kubernetes.

The directory holds the same YAML that a cluster would: RateLimitTiers, ModelLimits, ApiKeyQuotas, UserQuotas and
QuotaGateways, with the Secrets and Namespaces that they name. It is watched: an edit is in force with the next
request, and no count is lost. A broken file keeps the last good state. An Envoy is started for each QuotaGateway, and
again if it dies. Counters of a minute and more are kept in the data directory and survive a restart.

With --service, limits are left to "{{name}} ratelimit", which is a process of its own: it can be restarted without its
Envoys, and its counters and keys belong to it. What becomes of requests while it is away says the gateway, in spec.failure.

` + demo.Help(),
		Example: `  # Try a directory of manifests against a fake provider.
  {{name}} standalone --manifests config/samples/quickstart --demo-upstream

  # Serve on another port, with an Envoy that is not on the PATH.
  {{name}} standalone --manifests /etc/tierkeeper --port 9000 --envoy /opt/envoy/bin/envoy

  # Start Envoy yourself: the command to do so is printed.
  {{name}} standalone --manifests /etc/tierkeeper --envoy none

  # Leave limits to a process of its own.
  {{name}} ratelimit --manifests /etc/tierkeeper --address 127.0.0.1:8081 &
  {{name}} standalone --manifests /etc/tierkeeper --service 127.0.0.1:8081`,
		Args: flagsOnly,
		PreRunE: func(*cobra.Command, []string) error {
			if c.Service != "" && common.LeaseKeyFile != "" {
				return errors.New("--lease-key-file is for the process that signs leases: give it to the one at --service")
			}
			return common.check()
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			if err := common.complete(cmd); err != nil {
				return err
			}
			part := int64(partBesideEnvoy)
			if c.Envoy == "none" {
				part = partAlone
			}
			common.memory.apply(cmd.Context(), part, common.Log)
			c.Common, c.Port = common.Common, uint32(port)
			c.EnvoyOut, c.EnvoyLog = cmd.ErrOrStderr(), logLevels[common.logLevel].envoy
			return standalone.Run(cmd.Context(), c)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Address, "address", "127.0.0.1", "address that listeners bind to; 0.0.0.0 serves every network")
	flags.Uint16Var(&port, "port", 0, "port to serve in the place of the gateway's own (for one gateway with one listener)")
	flags.StringVar(&c.Envoy, "envoy", "envoy", `Envoy binary, 1.40 or newer; "none" starts none and prints how to`)
	flags.StringVar(&c.Service, "service", "", `address of a "ratelimit" process that limits are left to, on loopback (default: they are part of this process)`)
	flags.BoolVar(&c.DemoUpstream, "demo-upstream", false, "start a fake provider and send the requests of every backend to it")
	flags.StringVar(&c.ExampleKey, "example-key", "", "API key to write into the curl lines that are printed")
	common.add(cmd)
	must(cmd.MarkFlagRequired("manifests"))
	return cmd
}
