package command

import (
	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/standalone"
)

func newRatelimit() *cobra.Command {
	var (
		c      standalone.ServiceConfig
		common commonFlags
	)
	cmd := &cobra.Command{
		Use:   "ratelimit --manifests DIR",
		Short: "Run the rate-limit service in a process of its own",
		Long: `Run the rate-limit service in a process of its own: the counters, and the answers to Envoys.

It reads the same manifests as "{{name}} standalone --service ADDRESS", which runs the Envoys that ask it, and watches them:
an edit is in force with the next request, and no count is lost. Counters of a minute and more are kept in the data directory,
written every second, and survive a restart; so does the key that signs what Envoys hold of requests under way. To replace
that key, put the new one in the first line of the file and the old one in the second, and restart.

Calls carry API keys and are not encrypted yet, so the service listens on loopback only. What becomes of requests while it
is away says the gateway, in spec.failure.whenServiceUnavailable: by default they are answered 503.`,
		Example: `  # Serve limits, and the gateway that asks for them.
  {{name}} ratelimit --manifests config/samples/quickstart --address 127.0.0.1:8081 &
  {{name}} standalone --manifests config/samples/quickstart --demo-upstream --service 127.0.0.1:8081`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return common.check() },
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			if err := common.complete(cmd); err != nil {
				return err
			}
			c.Common = common.Common
			return standalone.RunService(cmd.Context(), c)
		}),
	}
	cmd.Flags().StringVar(&c.Address, "address", "127.0.0.1:8081", "address to listen on, on loopback; port 0 is one of the kernel's choice")
	common.add(cmd)
	return cmd
}
