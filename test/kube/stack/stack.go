// Package stack decides how a whole installation of Tierkeeper runs on one machine: a real kube-apiserver with its etcd, the
// operator and the rate-limit service as the processes that they are in a cluster, with the rights that they have there, and
// an Envoy for each QuotaGateway. Tests use it, and people who want to try Tierkeeper with kubectl.
package stack

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/mtls"
)

// Namespace is that of the operator and the service.
const Namespace = "tierkeeper"

// Config says what a stack is made of.
type Config struct {
	Project string // the root of the project, for its CRDs and RBAC
	Assets  string // folder of kube-apiserver and etcd
	Binary  string // tierkeeper
	Envoy   string // Envoy's binary; empty: none is started
	Dir     string // for data, logs and kubeconfigs; made if it is not there
	APIPort int    // of kube-apiserver; 0: one of the kernel's choice

	// TLS is by what the operator, the service and Envoys believe each other; empty: they are on one machine.
	TLS mtls.Files

	// Say tells what happens; nil: nobody wants to know.
	Say func(format string, args ...any)
}

// AddFlags defines the flags that say what a stack is made of, for somebody in the root of the project.
func (c *Config) AddFlags(flags *flag.FlagSet) {
	flags.StringVar(&c.Project, "project", ".", "root of the project")
	flags.StringVar(&c.Assets, "assets", "bin/kube", "folder of kube-apiserver and etcd")
	flags.StringVar(&c.Binary, "tierkeeper", "bin/tierkeeper", "the program")
	flags.StringVar(&c.Envoy, "envoy", "bin/envoy", "Envoy")
}

// A Stack is an API server with our definitions, and what runs against it.
type Stack struct {
	Config
	Cluster *rest.Config  // of an administrator
	Client  client.Client // of an administrator, uncached
	Front   *Front        // where Envoys and services find the operators

	env      *envtest.Environment
	upstream string
	stops    []func() error // in the order of the starts
}

// Start runs the API server with our definitions and our RBAC, and a provider that stands in for all backends. Nothing of
// Tierkeeper runs yet.
func Start(ctx context.Context, c Config) (*Stack, error) {
	if c.Say == nil {
		c.Say = func(string, ...any) {}
	}
	for _, path := range []*string{&c.Project, &c.Assets, &c.Binary, &c.Envoy, &c.Dir} {
		whole, err := absolute(*path)
		if err != nil {
			return nil, err
		}
		*path = whole
	}
	s := &Stack{Config: c}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// absolute leaves out what is left out. Processes run in folders of their own.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", path, err)
	}
	return whole, nil
}

func (s *Stack) start(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the stack: %w", err)
	}
	if s.upstream, err = s.serve(ctx, demo.New()); err != nil {
		return fmt.Errorf("starting the demo upstream: %w", err)
	}
	if s.Front, err = newFront(ctx); err != nil {
		return err
	}
	s.stops = append(s.stops, s.Front.close)
	s.Say("starting kube-apiserver and etcd")
	programs, err := s.trace()
	if err != nil {
		return err
	}
	if s.env, err = ControlPlane(s.Project, programs, s.APIPort); err != nil {
		return err
	}
	if s.Cluster, err = s.env.Start(); err != nil {
		return fmt.Errorf("starting kube-apiserver and etcd from %s: %w", s.Assets, err)
	}
	s.stops = append(s.stops, s.env.Stop)
	s.Cluster.QPS, s.Cluster.Burst = -1, -1 // Tests and people wait for the API server only.
	if s.Client, err = client.New(s.Cluster, client.Options{Scheme: controllers.Scheme()}); err != nil {
		return fmt.Errorf("connecting to the API server: %w", err)
	}
	if err := s.CreateNamespace(ctx, Namespace, nil); err != nil {
		return err
	}
	rbac := filepath.Join(s.Project, "config", "rbac")
	for _, dir := range []string{rbac, filepath.Join(rbac, "operator"), filepath.Join(rbac, "ratelimit")} {
		if err := s.applyFiles(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything that was started, the last first.
func (s *Stack) Stop() error {
	var errs []error
	for _, stop := range slices.Backward(s.stops) {
		errs = append(errs, stop())
	}
	s.stops = nil
	return errors.Join(errs...)
}

// CreateNamespace makes a namespace, if it is not there.
func (s *Stack) CreateNamespace(ctx context.Context, name string, labels map[string]string) error {
	err := s.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return nil
}

// User makes a user of the API server, with no rights but those that RBAC gives to the name and the groups.
func (s *Stack) User(name string, groups ...string) (*rest.Config, []byte, error) {
	user, err := s.env.AddUser(envtest.User{Name: name, Groups: groups}, s.Cluster)
	if err != nil {
		return nil, nil, fmt.Errorf("making user %s: %w", name, err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("writing the kubeconfig of %s: %w", name, err)
	}
	return user.Config(), kubeconfig, nil
}

// ServiceAccount makes the user that a pod with the service account is.
func (s *Stack) ServiceAccount(namespace, name string) (*rest.Config, []byte, error) {
	return s.User("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
}

// Administrator writes a kubeconfig that may do everything, and returns its path.
func (s *Stack) Administrator() (string, error) {
	_, kubeconfig, err := s.User("admin", "system:masters")
	if err != nil {
		return "", err
	}
	return s.writeKubeconfig("kubeconfig", kubeconfig)
}

func (s *Stack) writeKubeconfig(name string, content []byte) (string, error) {
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return path, nil
}

// serve answers on loopback until the stack stops, and returns where.
func (s *Stack) serve(ctx context.Context, h http.Handler) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // It ends with Close.
	s.stops = append(s.stops, server.Close)
	return l.Addr().String(), nil
}

// log is a file for what a process says.
func (s *Stack) log(name string) (io.WriteCloser, error) {
	f, err := os.OpenFile(filepath.Join(s.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	return f, nil
}
