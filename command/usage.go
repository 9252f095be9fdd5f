package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

type usageOptions struct {
	adminOptions

	namespace string
	output    format
}

func newUsage() *cobra.Command {
	var o usageOptions
	cmd := &cobra.Command{
		Use:   "usage [--admin URL] [NAMESPACE/NAME | -n NAMESPACE]",
		Short: "Show how much keys use of their limits now",
		Long: `Usage asks a running service how much is used, at this moment, of every limit that counts for the keys of one ApiKeyQuota, or
for all keys of its user (a UserQuota): over everything, by resource and by model. Reservations of requests under way count as used.
Limits that are only tried (enforcement: Shadow) and those that everybody shares (ModelLimit) are not among them.

Without a name it lists, for each ApiKeyQuota, the limit of which the largest part is used, the most used first, at most 100.

The variable TIERKEEPER_ADMIN takes the place of --admin. Of a service in a cluster, forward its port to this machine:
kubectl port-forward.`,
		Example: `  # What does one key use? NAME alone is in namespace default, or in that of -n.
  {{name}} usage --admin http://127.0.0.1:9000 team-a/ci

  # Who is close to a limit?
  export TIERKEEPER_ADMIN=http://127.0.0.1:9000
  {{name}} usage

  # Which keys of a namespace have used up a limit, for scripts.
  {{name}} usage --admin http://127.0.0.1:9000 -n team-a -o json | jq -r '.usage[] | select(any(.limits[]; .remaining == 0)).key'`,
		Args:              atMostOneKey,
		ValidArgsFunction: o.completeKeys,
		PreRunE:           func(_ *cobra.Command, args []string) error { return o.check(args) },
		RunE:              o.asking(o.run),
	}
	o.addFlags(cmd)
	o.output.addFlag(cmd)
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of the ApiKeyQuotas (default: all)")
	must(cmd.RegisterFlagCompletionFunc("namespace", o.completeNamespaces))
	return cmd
}

func atMostOneKey(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return errors.New("name one ApiKeyQuota as NAMESPACE/NAME, or none for all")
	}
	return nil
}

func (o *usageOptions) check(args []string) error {
	if len(args) > 0 && o.namespace != "" && strings.Contains(args[0], "/") {
		return fmt.Errorf("%s names its namespace, so leave out -n", args[0])
	}
	return o.adminOptions.check()
}

// key is the quota that an argument names.
func (o *usageOptions) key(arg string) policy.Name {
	if o.namespace != "" {
		return policy.Name{Namespace: o.namespace, Name: arg}
	}
	return parseName(arg)
}

func (o *usageOptions) run(cmd *cobra.Command, client *admin.Client, args []string) error {
	out := cmd.OutOrStdout()
	if len(args) > 0 {
		one, err := client.KeyUsage(cmd.Context(), o.key(args[0]))
		if err != nil {
			return err
		}
		warnOfOutage(cmd.ErrOrStderr(), one.Alone)
		if o.output != formatText {
			return printData(out, o.output, one.Usage[0])
		}
		printKeyUsage(out, &one.Usage[0], time.Now())
		return nil
	}
	all, err := client.KeyUsages(cmd.Context(), o.namespace)
	if err != nil {
		return err
	}
	warnOfOutage(cmd.ErrOrStderr(), all.Alone)
	if o.output != formatText {
		return printData(out, o.output, all)
	}
	if len(all.Usage) == 0 && o.namespace != "" {
		fmt.Fprintf(out, "There is no ApiKeyQuota in force in namespace %s.\n", o.namespace)
		return nil
	}
	printKeyUsages(out, all.Usage, all.More, time.Now())
	return nil
}

// warnOfOutage says why figures are not all there is.
func warnOfOutage(w io.Writer, alone bool) {
	if alone {
		fmt.Fprintln(w, "Redis is out, and this replica counts for itself: what other replicas have admitted since is not in these figures.")
	}
}

// printKeyUsage shows every limit of one key.
func printKeyUsage(w io.Writer, k *ratelimit.KeyUsage, now time.Time) {
	fmt.Fprintf(w, "Usage of ApiKeyQuota %s:\n\n", k.Key)
	if len(k.Limits) == 0 {
		fmt.Fprintln(w, "Nothing is limited for it alone.")
		return
	}
	rows := [][]string{{"SCOPE", "OF", "METRIC", "PER", "USED", "MAX", "LEFT", "%", "RESETS IN", "FROM"}}
	for i := range k.Limits {
		l := &k.Limits[i]
		rows = append(rows, []string{
			l.Scope, cmp.Or(l.Entry, "-"), l.Metric, per(l), grouped(l.Used), grouped(l.Max), grouped(l.Remaining), fmt.Sprint(l.Percent()), resetsIn(l, now),
			l.Origin.Object().String() + " " + l.Origin.Field,
		})
	}
	printTable(w, newPaint(w), rows)
}

// printKeyUsages shows of each key the limit of which most is used.
func printKeyUsages(w io.Writer, list []ratelimit.KeyUsage, more int, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "There is no ApiKeyQuota in force.")
		return
	}
	rows := [][]string{{"KEY", "%", "USED", "MAX", "RESETS IN", "LIMIT"}}
	for i := range list {
		l := list[i].Highest()
		if l == nil {
			rows = append(rows, []string{list[i].Key, "-", "-", "-", "-", "nothing is limited for it alone"})
			continue
		}
		rows = append(rows, []string{list[i].Key, fmt.Sprint(l.Percent()), grouped(l.Used), grouped(l.Max), resetsIn(l, now), l.ID()})
	}
	printTable(w, newPaint(w), rows)
	if more > 0 {
		fmt.Fprintf(w, "And %s more, of which none uses a larger part of a limit.\n", plural(more, "key", "keys"))
	}
}

func per(l *ratelimit.LimitUse) string {
	if l.Algorithm == policy.SlidingWindow.String() {
		return l.Per + " (sliding)"
	}
	return cmp.Or(l.Per, "-")
}

// resetsIn is nothing for what was not used, and for what has no window.
func resetsIn(l *ratelimit.LimitUse, now time.Time) string {
	if l.Reset.IsZero() || l.Used == 0 {
		return "-"
	}
	return max(l.Reset.Sub(now), 0).Round(time.Second).String()
}

// completeKeys offers the keys that the service knows, the most used of them.
func (o *usageOptions) completeKeys(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := o.known(cmd, o.namespace)
	for i, name := range names {
		if o.namespace != "" {
			names[i] = strings.TrimPrefix(name, o.namespace+"/")
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (o *usageOptions) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	namespaces := o.known(cmd, "")
	for i, name := range namespaces {
		namespaces[i], _, _ = strings.Cut(name, "/")
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), cobra.ShellCompDirectiveNoFileComp
}

// known is nothing where no service can be asked: completion has nobody to complain to.
func (o *usageOptions) known(cmd *cobra.Command, namespace string) []string {
	if o.adminOptions.check() != nil {
		return nil
	}
	client, err := o.client()
	if err != nil {
		return nil
	}
	all, err := client.KeyUsages(cmd.Context(), namespace)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(all.Usage))
	for _, k := range all.Usage {
		names = append(names, k.Key)
	}
	return names
}
