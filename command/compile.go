package command

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

type compileOptions struct {
	directory string
	output    format
	table     bool
	envoy     bool
}

func newCompile() *cobra.Command {
	var o compileOptions
	cmd := &cobra.Command{
		Use:   "compile -f DIR",
		Short: "Say of each manifest in a directory whether it is accepted",
		Long: `Compile reads every manifest in a directory (*.yaml, *.yml, *.json, and those in directories below) as an API server
would, and says of each object of tierkeeper.io whether it is accepted, and if not, why. Secrets and Namespaces are read too;
objects of other groups are left alone. It exits with 1 if anything is not accepted, so that CI can guard a GitOps repository.
Notes are about fields that are in order and have no effect; they change no exit code.

No API key is printed: those in Secrets appear nowhere, or as their digests.`,
		Example: `  # A table for people.
  {{name}} compile -f config/samples/quickstart

  # Only what is not accepted, for scripts.
  {{name}} compile -f manifests -o json | jq '.objects[] | select(.accepted | not)'

  # Every limit of every key as it is enforced.
  {{name}} compile -f manifests --table -o yaml

  # What the Envoys of each gateway are told.
  {{name}} compile -f manifests --envoy -o yaml`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return checkDirectory(o.directory) },
		RunE:    work(func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr()) }),
	}
	addDirectory(cmd, &o.directory)
	o.output.addFlag(cmd)
	cmd.Flags().BoolVar(&o.table, "table", false, "print the compiled table of limits instead of the verdicts")
	cmd.Flags().BoolVar(&o.envoy, "envoy", false, "print the listeners, routes and clusters of each gateway instead of the verdicts; what Secrets hold is REDACTED")
	cmd.MarkFlagsMutuallyExclusive("table", "envoy")
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
	case o.table:
		return o.printInstead(stdout, stderr, table, r)
	case o.envoy:
		config, err := envoyConfig(table)
		if err != nil {
			return err
		}
		return o.printInstead(stdout, stderr, config, r)
	case o.output == formatText:
		r.print(stdout)
		return nil
	}
	return printData(stdout, o.output, r)
}

// printInstead prints data in the place of the verdicts. What is not accepted is told beside it.
func (o *compileOptions) printInstead(stdout, stderr io.Writer, data any, r *report) error {
	r.printRejected(stderr)
	if o.output == formatText {
		return printData(stdout, formatJSON, data)
	}
	return printData(stdout, o.output, data)
}

// envoyConfig is what the Envoys of each gateway are told, by the gateway's name.
func envoyConfig(table *policy.Table) (map[string]map[string][]json.RawMessage, error) {
	all := map[string]map[string][]json.RawMessage{}
	for _, g := range table.Gateways() {
		r, err := envoy.Build(g, envoy.Settings{Secrets: redacted, SystemRoots: redacted(policy.SecretValue{})})
		if err != nil {
			return nil, err
		}
		config := map[string][]json.RawMessage{}
		for _, m := range r.Messages() {
			content, err := protojson.Marshal(m)
			if err != nil {
				return nil, fmt.Errorf("writing the configuration of gateway %s: %w", g.Name, err)
			}
			kind := string(m.ProtoReflect().Descriptor().Name())
			config[kind] = append(config[kind], content)
		}
		all[g.Name.String()] = config
	}
	return all, nil
}

// redacted takes the place of all that Secrets hold.
func redacted(policy.SecretValue) []byte { return []byte("REDACTED") }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
