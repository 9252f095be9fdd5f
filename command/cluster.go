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
	config, err := o.loader().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster (see --kubeconfig): %w", err)
	}
	return config, nil
}

// namespace is the one that kubectl would take: that of the context, or of the pod, or else default.
func (o *clusterOptions) namespace() (string, error) {
	namespace, _, err := o.loader().Namespace()
	if err != nil {
		return "", fmt.Errorf("finding the cluster (see --kubeconfig): %w", err)
	}
	return namespace, nil
}

func (o *clusterOptions) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context})
}

// ownNamespace is that of the pod; empty where there is none.
func ownNamespace() string {
	content, _ := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace") // A pod has it.
	return strings.TrimSpace(string(content))
}
