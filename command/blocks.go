package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// adminVariable is the environment variable that takes the place of --admin.
const adminVariable = "TIERKEEPER_ADMIN"

// adminOptions says which service is asked.
type adminOptions struct{ address, tokenFile string }

func (o *adminOptions) addFlags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&o.address, "admin", "", `admin address of the service, which it prints behind "Admin:" when it starts (default: that of $`+adminVariable+")")
	cmd.PersistentFlags().StringVar(&o.tokenFile, "token-file", "", "file with the token of --admin-token-file, if the service has one")
	must(cmd.MarkPersistentFlagFilename("token-file"))
}

func (o *adminOptions) check() error {
	if o.address == "" {
		o.address = os.Getenv(adminVariable)
	}
	if o.address == "" {
		return errors.New("flag --admin is missing, and so is " + adminVariable + "; either names the address that standalone, or ratelimit, prints behind \"Admin:\"")
	}
	return nil
}

func (o *adminOptions) client() (*admin.Client, error) {
	token := ""
	if o.tokenFile != "" {
		var err error
		if token, err = admin.ReadToken(o.tokenFile); err != nil {
			return nil, err
		}
	}
	return admin.NewClient(o.address, token)
}

// asking is a RunE that asks the service.
func (o *adminOptions) asking(ask func(cmd *cobra.Command, client *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return work(func(cmd *cobra.Command, args []string) error {
		client, err := o.client()
		if err != nil {
			return err
		}
		return inWords(ask(cmd, client, args))
	})
}

// inWords says by which command to look where the service names a path to who asks it over HTTP.
func inWords(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	words := strings.NewReplacer("GET /admin/usage lists", "The command usage lists", "GET /admin/blocks lists", "The command blocks lists").Replace(text)
	if words == text {
		return err
	}
	return errors.New(words)
}

func newBlocks() *cobra.Command {
	var (
		o      adminOptions
		output format
	)
	cmd := &cobra.Command{
		Use:   "blocks [--admin URL]",
		Short: "List who is blocked for failing too often, and lift blocks",
		Long: `Blocks lists who a running service has blocked, at gateways with abuseProtection, for getting too many unsuccessful
answers: ApiKeyQuotas, and addresses of clients without a known key (for IPv6 the first of the /64). A block ends by itself.

The variable TIERKEEPER_ADMIN takes the place of --admin.`,
		Example: `  # Who is blocked, and for how long?
  {{name}} blocks --admin http://127.0.0.1:9000

  # Let one go on at once.
  {{name}} blocks lift --admin http://127.0.0.1:9000 ID

  # Let all keys go on, on another machine.
  {{name}} blocks --admin https://gateway.example.com --token-file token -o json | jq -r '.[] | select(.kind == "ApiKeyQuota").id' |
    xargs -n1 {{name}} blocks lift --admin https://gateway.example.com --token-file token`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: o.asking(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			blocks, err := client.Blocks(cmd.Context())
			if err != nil {
				return err
			}
			if output != formatText {
				return printData(cmd.OutOrStdout(), output, blocks)
			}
			printBlocks(cmd.OutOrStdout(), blocks, time.Now())
			return nil
		}),
	}
	o.addFlags(cmd)
	output.addFlag(cmd)
	cmd.AddCommand(newLift(&o))
	return cmd
}

func newLift(o *adminOptions) *cobra.Command {
	return &cobra.Command{
		Use:     "lift [--admin URL] ID",
		Short:   "Lift a block",
		Long:    `Lift ends a block by the id with which blocks lists it. Counting starts anew: whoever goes on to fail is blocked again.`,
		Example: `  {{name}} blocks lift --admin http://127.0.0.1:9000 ID`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("name one block by its id, which the command blocks lists")
			}
			return nil
		},
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: o.asking(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			if err := client.Lift(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "The block is lifted.")
			return err
		}),
	}
}

// printBlocks shows those that last longest first.
func printBlocks(w io.Writer, blocks []ratelimit.Block, now time.Time) {
	if len(blocks) == 0 {
		fmt.Fprintln(w, "Nobody is blocked.")
		return
	}
	slices.SortStableFunc(blocks, func(a, b ratelimit.Block) int { return b.Until.Compare(a.Until) })
	rows := [][]string{{"GATEWAY", "KIND", "NAME", "FAILURES", "SINCE", "LEFT", "ID"}}
	for _, b := range blocks {
		left := max(b.Until.Sub(now), 0).Round(time.Second)
		rows = append(rows, []string{
			b.Gateway, b.Kind, cmp.Or(b.Name, "(gone)"), strconv.Itoa(b.Failures), b.Since.UTC().Format(time.RFC3339), left.String(), b.ID,
		})
	}
	for _, line := range columns(rows) {
		fmt.Fprintln(w, line)
	}
}
