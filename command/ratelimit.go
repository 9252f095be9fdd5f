package command

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/standalone"
)

func newRatelimit() *cobra.Command {
	var (
		c      standalone.ServiceConfig
		common commonFlags
		status reportingOptions
		shared redisFlags
	)
	cmd := &cobra.Command{
		Use:   "ratelimit (--operator HOST:PORT | --manifests DIR)",
		Short: "Run the rate-limit service in a process of its own",
		Long: `Run the rate-limit service in a process of its own: the counters, and the answers to Envoys.

In a cluster it asks the operator what holds, and keeps what it was told last in the data directory: it goes on, and starts,
while no operator runs. One of its replicas writes into ApiKeyQuotas and UserQuotas how much of their limits is used.

Without a cluster it reads the same manifests as "{{name}} standalone --service ADDRESS", which runs the Envoys that ask it, and
watches them.

A change is in force with the next request, and no count is lost. Counters of a minute and more are kept in the data directory,
written every second, and survive a restart; so does the key that signs what Envoys hold of requests under way. To replace that
key, put the new one in the first line of the file and the old one in the second, and restart.

One replica counts in its memory. Several count together in Redis or Valkey, named with --redis: limits hold over all of them, and
any of them may be asked. While that does not answer, each goes on by what the gateway says in spec.failure.whenStoreUnavailable.

Calls carry API keys: Envoys on other machines are answered with --cert, --key and --ca only. What becomes of requests while the
service is away says the gateway, in spec.failure.whenServiceUnavailable: by default they are answered 503.`,
		Example: `  # In a cluster.
  {{name}} ratelimit --operator tierkeeper-operator:8080 --address :8081 --data-dir /data \
    --cert /certs/tls.crt --key /certs/tls.key --ca /certs/ca.crt

  # The same, as one of several replicas.
  {{name}} ratelimit --operator tierkeeper-operator:8080 --address :8081 --data-dir /data --lease-key-file /keys/lease \
    --redis redis:6379 --redis-password-file /keys/redis --cert /certs/tls.crt --key /certs/tls.key --ca /certs/ca.crt

  # Serve limits of manifests, and the gateway that asks for them.
  {{name}} ratelimit --manifests config/samples/quickstart --address 127.0.0.1:8081 &
  {{name}} standalone --manifests config/samples/quickstart --demo-upstream --service 127.0.0.1:8081`,
		Args: flagsOnly,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case (c.Operator == "") == (common.Manifests == ""):
				return errors.New("give either --operator, which says what holds in a cluster, or --manifests")
			case c.Operator != "" && common.DataDir == "":
				return errors.New("--data-dir is missing: there stand the counters, and what the operator told last")
			}
			if c.Drain < 0 {
				return errors.New("--drain must not be negative")
			}
			return errors.Join(common.check(), c.TLS.Complete(), shared.check(common.LeaseKeyFile))
		},
		RunE: work(func(cmd *cobra.Command, _ []string) (err error) {
			if err := common.complete(cmd); err != nil {
				return err
			}
			common.memory.apply(cmd.Context(), partAlone, common.Log)
			c.Common = common.Common
			if c.Identity == "" {
				name, err := os.Hostname()
				if err != nil {
					return fmt.Errorf("finding the name of this replica (or give it with --identity): %w", err)
				}
				c.Identity = name
			}
			if c.Redis, err = shared.complete(); err != nil {
				return err
			}
			c.StoreDeadline = shared.deadline
			if err := status.complete(cmd.Context(), &c); err != nil {
				return err
			}
			return standalone.RunService(cmd.Context(), c)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Operator, "operator", "", "address of the operator of the cluster, as host:port; beyond loopback only with --cert, --key and --ca")
	flags.StringVar(&c.OperatorName, "operator-server-name", "", "name that the operator's certificate must be for (default: the host of --operator)")
	flags.StringVar(&c.Identity, "identity", "", "name of this replica, unlike that of any other (default: the host name, which is that of the pod)")
	flags.StringVar(&c.Address, "address", "127.0.0.1:8081", "address to listen on; beyond loopback only with --cert, --key and --ca; port 0 is one of the kernel's choice")
	addTLSFlags(cmd, &c.TLS)
	flags.DurationVar(&c.Drain, "drain", standalone.DefaultDrain, "for how long a stop lets Envoys take notice and ask other replicas, and takes what still comes from them")
	shared.add(cmd)
	status.addFlags(cmd)
	common.add(cmd)
	flags.Lookup("data-dir").Usage += "; required with --operator"
	return cmd
}
