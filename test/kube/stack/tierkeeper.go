package stack

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var answers = regexp.MustCompile(`(?m)answers .* on (\S+:\d+)\.$`)

// StartOperator runs a replica of the operator, with the rights of its service account, and puts it behind the Front.
func (s *Stack) StartOperator(ctx context.Context, identity string, args ...string) (*Process, error) {
	_, kubeconfig, err := s.ServiceAccount(Namespace, "tierkeeper-operator")
	if err != nil {
		return nil, err
	}
	path, err := s.writeKubeconfig(identity+".kubeconfig", kubeconfig)
	if err != nil {
		return nil, err
	}
	p, err := s.run(ctx, identity, answers, s.Binary, slices.Concat([]string{
		"operator", "--kubeconfig", path, "--namespace", Namespace, "--identity", identity,
		"--address", "127.0.0.1:0", "--metrics-address", "none", "--health-address", "none",
		"--bind-address", loopback, "--upstream", s.upstream,
	}, s.certificates(), args)...)
	if err != nil {
		return nil, err
	}
	s.Front.Add(p.Address)
	go func() {
		<-p.Ended()
		s.Front.Remove(p.Address)
	}()
	return p, nil
}

// StartService runs a replica of the rate-limit service, which asks the Front what holds, with the rights of its service
// account. Its counters and its last table are kept in a directory of its name.
func (s *Stack) StartService(ctx context.Context, name string, args ...string) (*Process, error) {
	_, kubeconfig, err := s.ServiceAccount(Namespace, "tierkeeper-ratelimit")
	if err != nil {
		return nil, err
	}
	path, err := s.writeKubeconfig(name+".kubeconfig", kubeconfig)
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:0"
	if last, err := os.ReadFile(filepath.Join(s.Dir, name+".address")); err == nil {
		address = strings.TrimSpace(string(last)) // Envoys know it from before.
	}
	p, err := s.run(ctx, name, answers, s.Binary, slices.Concat([]string{
		"ratelimit", "--operator", s.Front.Address(), "--kubeconfig", path, "--namespace", Namespace, "--identity", name,
		"--address", address, "--data-dir", filepath.Join(s.Dir, name), "--metrics-address", "none",
	}, s.certificates(), args)...)
	if err != nil {
		return nil, err
	}
	return p, os.WriteFile(filepath.Join(s.Dir, name+".address"), []byte(p.Address), 0o600)
}

// certificates are the flags of a process that name them.
func (s *Stack) certificates() []string {
	if !s.TLS.Given() {
		return nil
	}
	return []string{"--cert", s.TLS.Cert, "--key", s.TLS.Key, "--ca", s.TLS.CA}
}
