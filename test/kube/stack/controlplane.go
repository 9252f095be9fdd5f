package stack

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tierkeeper/tierkeeper/internal/port"
)

const (
	loopback  = "127.0.0.1"
	startMost = time.Minute // a machine may be busy
)

// ControlPlane is a kube-apiserver and an etcd that have yet to be started, with our definitions from the root of the project. Assets is
// the folder of their programs. The API server listens at a port, 0 for any, which is its own before this process ends.
func ControlPlane(project, assets string, at int) (*envtest.Environment, error) {
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{filepath.Join(project, "config", "crd")}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: startMost, ControlPlaneStopTimeout: startMost, CRDInstallOptions: envtest.CRDInstallOptions{MaxTime: startMost},
	}
	if at == 0 {
		var err error
		if at, _, err = port.Hold(); err != nil {
			return nil, fmt.Errorf("finding a port for kube-apiserver: %w", err)
		}
	}
	api := env.ControlPlane.GetAPIServer()
	api.Address, api.Port = loopback, strconv.Itoa(at)
	etcdAt, _, err := port.Hold()
	if err != nil {
		return nil, fmt.Errorf("finding a port for etcd: %w", err)
	}
	env.ControlPlane.Etcd = &envtest.Etcd{URL: &url.URL{Scheme: "http", Host: net.JoinHostPort(loopback, strconv.Itoa(etcdAt))}}
	return env, nil
}
