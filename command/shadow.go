package command

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

func newShadow() *cobra.Command {
	var (
		o      adminOptions
		output format
	)
	cmd := &cobra.Command{
		Use:   "shadow [--admin URL]",
		Short: "List whose requests limits would have refused that are only tried",
		Long: `Shadow lists what limits with enforcement: Shadow would have refused since the service began: whose requests, how many, and
the field that the limit stands in. Set enforcement: Enforce, or leave it out, and they are refused.

The variable TIERKEEPER_ADMIN takes the place of --admin.`,
		Example: `  # What would the limits refuse that are only tried?
  {{name}} shadow --admin http://127.0.0.1:9000

  # Only those of one tier.
  {{name}} shadow --admin http://127.0.0.1:9000 -o json | jq '.shadow[] | select(.origin.name == "free")'`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: o.asking(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			list, more, err := client.Shadow(cmd.Context())
			if err != nil {
				return err
			}
			if output != formatText {
				return printData(cmd.OutOrStdout(), output, map[string]any{"shadow": list, "more": more})
			}
			printShadow(cmd.OutOrStdout(), list, more)
			return nil
		}),
	}
	o.addFlags(cmd)
	output.addFlag(cmd)
	return cmd
}

func printShadow(w io.Writer, list []ratelimit.Shadow, more int64) {
	if len(list) == 0 {
		fmt.Fprintln(w, "Nothing would have been refused.")
		return
	}
	rows := [][]string{{"KEY", "GATEWAY", "WOULD REFUSE", "LAST", "LIMIT", "MAX", "FROM"}}
	for _, s := range list {
		limit := s.Metric
		switch {
		case s.Metric == "":
			limit = "failures"
		case s.Per != "":
			limit += " per " + s.Per
		}
		rows = append(rows, []string{
			s.Key, s.Gateway, grouped(s.Count), s.Last.UTC().Format(time.RFC3339), limit, grouped(s.Max), s.Origin.Object().String() + " " + s.Origin.Field,
		})
	}
	printTable(w, newPaint(w), rows)
	if more > 0 {
		fmt.Fprintf(w, "And %s more that are not told apart.\n", grouped(more))
	}
}
