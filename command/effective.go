package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

type effectiveOptions struct {
	directory string
	namespace string
	key       string
	model     string
	resource  string
	gateway   string
	output    format
	cluster   clusterOptions
}

func newEffective() *cobra.Command {
	var o effectiveOptions
	cmd := &cobra.Command{
		Use:   "effective [-f DIR] --key [NAMESPACE/]NAME",
		Short: "List every limit that holds for one key, and where it comes from",
		Long: `Effective lists every limit that would hold for a request with a key of one ApiKeyQuota: its number, what it counts, and
the object and field that it comes from. Limits of different scopes hold together.

With --model, limits for that model are listed too, and those for the resource that its ModelLimit names. At run time the
resource of the route counts; --resource says which that is. Where gateways differ in which ModelLimits count there,
--gateway says which is asked. A key that nothing limits has an empty list.

Without -f the cluster of your kubeconfig is asked. NAME alone is in the namespace of -n, or else of the kubeconfig's context. You need
the right to list ApiKeyQuotas and UserQuotas there (the ClusterRole view has it), and RateLimitTiers and ModelLimits (tierkeeper-plans).
None to Secrets is needed: whether the keys are in order says the status of the ApiKeyQuota. QuotaGateways and namespaces are
looked at where you may list them; notes say what is not known without.`,
		Example: `  # What holds in the cluster for all requests of a key.
  {{name}} effective --key team-a/ci

  # The same.
  {{name}} effective -n team-a --key ci

  # The same, by the manifests of a directory.
  {{name}} effective -f config/samples/quickstart --key default/demo-free

  # What holds when it asks for one model.
  {{name}} effective -f manifests --key team-a/ci --model gpt-4-turbo

  # What holds on the routes of one resource, for scripts.
  {{name}} effective -f manifests --key team-a/ci --resource images -o json | jq '.limits[].max'`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), time.Now())
		}),
	}
	addDirectory(cmd, &o.directory)
	o.cluster.addFlags(cmd)
	o.output.addFlag(cmd)
	cmd.Flags().StringVar(&o.key, "key", "", "ApiKeyQuota whose keys are meant, as NAMESPACE/NAME or NAME")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of what is named without one (default: that of the kubeconfig's context; with -f, default)")
	cmd.Flags().StringVar(&o.model, "model", "", "model that is asked for")
	cmd.Flags().StringVar(&o.resource, "resource", "", "resource of the route (default: that of the model)")
	cmd.Flags().StringVar(&o.gateway, "gateway", "", "QuotaGateway that is asked, as NAMESPACE/NAME or NAME (default: one that admits the key)")
	must(cmd.RegisterFlagCompletionFunc("key", o.completeKeys))
	return cmd
}

func (o *effectiveOptions) check() error {
	switch {
	case o.key == "":
		return errors.New("flag --key is missing; it names an ApiKeyQuota as NAMESPACE/NAME")
	case o.namespace != "" && strings.Contains(o.key, "/"):
		return fmt.Errorf("%s names its namespace, so leave out -n", o.key)
	}
	return nil
}

func (o *effectiveOptions) run(ctx context.Context, stdout, stderr io.Writer, now time.Time) error {
	name, err := o.name(o.key)
	if err != nil {
		return err
	}
	r, err := o.read(ctx, name.Namespace)
	if err != nil {
		return err
	}
	table := r.table
	credential, err := r.quota(name)
	if err != nil {
		return err
	}
	for _, note := range r.notes(name) {
		fmt.Fprintf(stderr, "Note: %s\n", note)
	}
	gateway, err := o.findGateway(r, name.Namespace)
	if err != nil {
		return err
	}
	if gateway != nil && !gateway.Serves(o.model) {
		fmt.Fprintf(stderr, "Note: QuotaGateway %s answers requests for %s with 404: no ModelLimit that counts there names it, and its unknownModels is Deny.\n",
			gateway.Name, o.model)
	}
	e := newEffectiveLimits(table, gateway, credential, name, o.model, o.resource)
	standing := credential.Standing(now).Refusal()
	if o.output != formatText {
		if standing != "" {
			fmt.Fprintf(stderr, "Note: %s\n", standing)
		}
		return printData(stdout, o.output, e)
	}
	e.print(stdout, credential.Holder, standing)
	return nil
}

func (o *effectiveOptions) read(ctx context.Context, namespace string) (*reading, error) {
	if o.directory == "" {
		return readCluster(ctx, &o.cluster, namespace)
	}
	return readDirectory(o.directory), nil
}

// name finds the namespace of what is named without one. With a directory it is the one that manifests without one are in.
func (o *effectiveOptions) name(s string) (policy.Name, error) {
	switch {
	case strings.Contains(s, "/"):
		return parseName(s), nil
	case o.namespace != "":
		return policy.Name{Namespace: o.namespace, Name: s}, nil
	case o.directory != "":
		return parseName(s), nil
	}
	namespace, err := o.cluster.namespace()
	if err != nil {
		return policy.Name{}, orDirectory(err)
	}
	return policy.Name{Namespace: namespace, Name: s}, nil
}

// completeKeys offers the ApiKeyQuotas of one namespace: that which was begun, by whole names, or else that of NAME alone. Without
// either a directory offers all that it has.
func (o *effectiveOptions) completeKeys(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	name, err := o.name(begun)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	r, err := o.read(ctx, name.Namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	if strings.Contains(begun, "/") || o.directory != "" && o.namespace == "" {
		return r.quotas, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, quota := range r.quotas {
		if short, here := strings.CutPrefix(quota, name.Namespace+"/"); here {
			names = append(names, short)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// findGateway is nil where no gateway admits the key: all ModelLimits count then.
func (o *effectiveOptions) findGateway(r *reading, namespace string) (*policy.Gateway, error) {
	table := r.table
	if o.gateway == "" {
		gateway, same := table.GatewayFor(namespace)
		if !same && o.model != "" {
			return nil, fmt.Errorf("several QuotaGateways admit keys of namespace %s, and different ModelLimits count there; name one with --gateway: %s",
				namespace, strings.Join(gatewaysFor(table, namespace), " or "))
		}
		return gateway, nil
	}
	wanted, err := o.name(o.gateway)
	if err != nil {
		return nil, err
	}
	gateway, found := table.Gateway(wanted.String())
	switch {
	case !found:
		err := fmt.Sprintf("there is no accepted QuotaGateway %s %s", wanted, r.where)
		if others := gatewaysFor(table, namespace); len(others) > 0 {
			err += "; keys of namespace " + namespace + " are admitted by " + strings.Join(others, " and ")
		}
		return nil, errors.New(err)
	case !gateway.Admits(namespace):
		return nil, fmt.Errorf("QuotaGateway %s admits no keys of namespace %s; see its spec.allowedKeys", gateway.Name, namespace)
	}
	return gateway, nil
}

// gatewaysFor names the gateways that admit keys of a namespace.
func gatewaysFor(table *policy.Table, namespace string) []string {
	var names []string
	for _, g := range table.Gateways() {
		if g.Admits(namespace) {
			names = append(names, g.Name.String())
		}
	}
	return names
}

func parseName(s string) policy.Name {
	namespace, name, found := strings.Cut(s, "/")
	if !found {
		return policy.Name{Namespace: manifest.DefaultNamespace, Name: s}
	}
	return policy.Name{Namespace: namespace, Name: name}
}

// whyNotAccepted is what is wrong with the manifest of a quota.
func (r *report) whyNotAccepted(name policy.Name) string {
	var why []string
	for _, o := range r.Objects {
		if o.Kind != policy.KindQuota || o.Namespace != name.Namespace || o.Name != name.Name {
			continue
		}
		for _, reason := range o.Reasons {
			why = append(why, fmt.Sprintf("%s: %s: %s", reason.source, reason.Reason, reason.words()))
		}
	}
	return strings.Join(why, "\n  ")
}

// nearest lists up to three names: those that differ from the wanted one in the fewest letters, if they are few, and those
// that differ in the namespace only.
func nearest(want string, names []string) []string {
	letters := map[string]int{}
	fewest := 1 + len(want)/6
	for _, n := range names {
		letters[n] = distance(want, n)
		fewest = min(fewest, letters[n])
	}
	var near []string
	for _, n := range names {
		_, wanted, _ := strings.Cut(want, "/")
		if letters[n] == fewest || strings.HasSuffix(n, "/"+wanted) {
			near = append(near, n)
		}
	}
	slices.SortFunc(near, func(a, b string) int { return cmp.Or(cmp.Compare(letters[a], letters[b]), cmp.Compare(a, b)) })
	return near[:min(3, len(near))]
}

// distance is the number of letters to add, drop or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
