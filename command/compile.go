package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

type compileOptions struct {
	directory string
	output    format
	table     bool
}

func newCompile() *cobra.Command {
	var o compileOptions
	cmd := &cobra.Command{
		Use:   "compile -f DIR",
		Short: "Say of each manifest in a directory whether it is accepted",
		Long: `Compile reads every manifest in a directory (*.yaml, *.yml, *.json, and those in directories below) as an API server
would, and says of each object of tierkeeper.io whether it is accepted, and if not, why. Secrets and Namespaces are read too;
objects of other groups are left alone. It exits with 1 if anything is not accepted, so that CI can guard a GitOps repository.

No API key is printed: those in Secrets appear nowhere, or as their digests.`,
		Example: `  # A table for people.
  {{name}} compile -f config/samples/quickstart

  # Only what is not accepted, for scripts.
  {{name}} compile -f manifests -o json | jq '.objects[] | select(.accepted | not)'

  # Every limit of every key as it is enforced.
  {{name}} compile -f manifests --table -o yaml`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return checkDirectory(o.directory) },
		RunE:    work(func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr()) }),
	}
	addDirectory(cmd, &o.directory)
	o.output.addFlag(cmd)
	cmd.Flags().BoolVar(&o.table, "table", false, "print the compiled table of limits instead of the verdicts")
	return cmd
}

func (o *compileOptions) run(stdout, stderr io.Writer) error {
	result := new(manifest.Loader).Load(o.directory)
	table, verdicts := policy.Compile(result.Input)
	report := newReport(result, verdicts)
	if err := o.print(stdout, stderr, table, report); err != nil {
		return err
	}
	return report.err(o.directory)
}

func (o *compileOptions) print(stdout, stderr io.Writer, table *policy.Table, r *report) error {
	switch {
	case o.table && o.output == formatText:
		r.printRejected(stderr)
		return printData(stdout, formatJSON, table)
	case o.table:
		r.printRejected(stderr)
		return printData(stdout, o.output, table)
	case o.output == formatText:
		r.print(stdout)
		return nil
	}
	return printData(stdout, o.output, r)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
