package command

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clusterOptions says which cluster is meant.
type clusterOptions struct{ kubeconfig, context string }

func (o *clusterOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "file that says where the cluster is (default: that of $KUBECONFIG, or the cluster of the pod)")
	flags.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	must(cmd.MarkFlagFilename("kubeconfig"))
}

func (o *clusterOptions) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster (see --kubeconfig): %w", err)
	}
	return config, nil
}

// ownNamespace is that of the pod; empty where there is none.
func ownNamespace() string {
	content, _ := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace") // A pod has it.
	return strings.TrimSpace(string(content))
}
