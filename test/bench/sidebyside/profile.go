package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// profiled are the variants that do all that the service does for a request.
var profiled = []string{"memory-settle", "redis-settle"}

func newProfile() *cobra.Command {
	p := peers{session: session{rounds: 1}, connections: 4, outstanding: 64}
	dir := ""
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Write profiles of the service under load",
		Long: `Write a CPU profile of "tierkeeper ratelimit" under load with counters in memory, and one with counters in Redis: they
tell where it spends its time.`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return p.check() },
		RunE: work(func(cmd *cobra.Command) error {
			return p.run(cmd, func(ctx context.Context) error { return p.profile(ctx, dir) })
		}),
	}
	flags := cmd.Flags()
	p.addLoad(flags, 20, "time for each profile")
	flags.StringVar(&dir, "dir", ".data/profiles", "directory for the profiles")
	return cmd
}

func (p *peers) profile(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	for _, v := range servers.Variants {
		if !slices.Contains(profiled, v.Name) {
			continue
		}
		path := filepath.Join(dir, v.Name+".pprof")
		if err := p.profileOne(ctx, v, path); err != nil {
			return err
		}
		fmt.Fprintln(p.out, path)
	}
	return nil
}

// profileOne has the server profiled for as long as it is measured.
func (p *peers) profileOne(ctx context.Context, v servers.Variant, path string) error {
	v.Command = append(slices.Clip(v.Command), "--pprof-address", "{pprof}")
	s, err := servers.Start(ctx, p.programs, v, p.setup(judgedLimits), p.dir)
	if err != nil {
		return err //nolint:wrapcheck // It says what could not be started.
	}
	defer s.Stop()
	c, err := p.contestant(s, p.cases(judgedLimits)[0])
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		written <- save(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", s.Pprof, max(p.seconds, 1)), path)
	}()
	_, err = p.measure(ctx, c)
	return errors.Join(err, <-written)
}

// save writes what a URL answers.
func save(ctx context.Context, url, path string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reading a profile: %s", response.Status)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	return nil
}
