// Package kube_test decides whether a real API server takes our objects, and refuses what is none of ours, as we mean it.
package kube_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// server is the API server of all tests, with our definitions; nil where there are no binaries of it.
var server *rest.Config

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	assets := os.Getenv("KUBE_ASSETS")
	if assets == "" {
		return m.Run()
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{"../../config/crd"}, ErrorIfCRDPathMissing: true,
	}
	var err error
	if server, err = env.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "starting kube-apiserver and etcd from %s: %v\n", assets, err)
		return 1
	}
	code := m.Run()
	if err := env.Stop(); err != nil {
		fmt.Fprintf(os.Stderr, "stopping kube-apiserver and etcd: %v\n", err)
		return 1
	}
	return code
}

// connect returns a client of the API server. Without one the test is skipped, or fails where nothing may be skipped.
func connect(t *testing.T) client.Client {
	t.Helper()
	switch {
	case server != nil:
	case os.Getenv("REQUIRE_KUBE") == "1":
		t.Fatal("KUBE_ASSETS names no folder with kube-apiserver and etcd: run make test-kube.")
	default:
		t.Skip("This test needs a real kube-apiserver and etcd: run it with make test-kube.")
	}
	c, err := client.New(server, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return client.WithFieldValidation(c, "Strict")
}
