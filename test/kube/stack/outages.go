package stack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tierkeeper/tierkeeper/internal/child"
)

// The programs of a control plane.
const (
	etcd      = "etcd"
	apiServer = "kube-apiserver"
)

const lookForAPIServer = 100 * time.Millisecond

// trace makes a folder like that of the Assets, whose programs first write down their process and their arguments: envtest
// tells neither, and loses its users when it restarts an API server itself.
func (s *Stack) trace() (dir string, err error) {
	assets, err := filepath.Abs(s.Assets)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", s.Assets, err)
	}
	for _, program := range []string{etcd, apiServer} {
		path := s.traceOf(program)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("making a directory for the control plane: %w", err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho $$ >'%[1]s.pid'\nprintf '%%s\\n' \"$@\" >'%[1]s.args'\nexec '%[2]s' \"$@\"\n",
			path, filepath.Join(assets, program))
		if err := child.WriteScript(path, script); err != nil {
			return "", fmt.Errorf("writing what starts %s: %w", program, err)
		}
		dir = filepath.Dir(path)
	}
	return dir, nil
}

func (s *Stack) traceOf(program string) string { return filepath.Join(s.Dir, "control-plane", program) }

// signal tells a program of the control plane that envtest started.
func (s *Stack) signal(program string, signal syscall.Signal) error {
	content, err := os.ReadFile(s.traceOf(program) + ".pid")
	if err != nil {
		return fmt.Errorf("finding the process of %s: %w", program, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return fmt.Errorf("finding the process of %s: %w", program, err)
	}
	return syscall.Kill(pid, signal)
}

// PauseEtcd lets etcd answer nothing, until ResumeEtcd: the API server is there, and neither reads nor writes.
func (s *Stack) PauseEtcd() error { return s.signal(etcd, syscall.SIGSTOP) }

// ResumeEtcd undoes PauseEtcd.
func (s *Stack) ResumeEtcd() error { return s.signal(etcd, syscall.SIGCONT) }

// KillAPIServer ends the API server at once, until StartAPIServer: an end in order takes it a minute. What it keeps is in etcd.
func (s *Stack) KillAPIServer(ctx context.Context) error {
	if err := s.signal(apiServer, syscall.SIGKILL); err != nil {
		return err
	}
	return s.until(ctx, "the API server has ended", func() error {
		const nothing = syscall.Signal(0)
		switch err := s.signal(apiServer, nothing); {
		case errors.Is(err, syscall.ESRCH):
			return nil
		case err != nil:
			return err
		default:
			return errors.New("it is still there")
		}
	})
}

// StartAPIServer starts it again as it was, at the same address and for the same users, and waits until it is ready.
func (s *Stack) StartAPIServer(ctx context.Context) error {
	content, err := os.ReadFile(s.traceOf(apiServer) + ".args")
	if err != nil {
		return fmt.Errorf("finding how the API server was started: %w", err)
	}
	args := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if _, err := s.run(ctx, apiServer, nil, s.traceOf(apiServer), args...); err != nil {
		return err
	}
	h, err := rest.HTTPClientFor(s.Cluster)
	if err != nil {
		return fmt.Errorf("connecting to the API server: %w", err)
	}
	return s.until(ctx, "the API server is ready", func() error { return ready(ctx, h, s.Cluster.Host) })
}

func ready(ctx context.Context, h *http.Client, host string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(host, "/")+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := h.Do(r)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", response.Status)
	}
	return errors.Join(err, response.Body.Close())
}

// until waits for something that takes a moment.
func (s *Stack) until(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	ticker := time.NewTicker(lookForAPIServer)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, errors.Join(err, ctx.Err()))
		case <-ticker.C:
		}
	}
}
