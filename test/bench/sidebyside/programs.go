package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// complete finds the programs, whose paths must hold in other directories too.
func complete(p *servers.Programs) (err error) {
	if p.Self, err = os.Executable(); err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	for _, path := range []*string{&p.Tierkeeper, &p.Peer, &p.Redis, &p.Envoy} {
		if *path == "" {
			continue
		}
		if *path, err = exec.LookPath(*path); err != nil {
			return fmt.Errorf("finding a program: %w", err)
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("finding a program: %w", err)
		}
	}
	return nil
}

// built says of which version of which modules a Go program is made, if it is one.
func built(path string, modules ...string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "of an unknown version"
	}
	said := []string{info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" && s.Value == "true" {
			said = append(said, s.Key+" "+s.Value)
		}
	}
	for _, d := range info.Deps {
		if slices.Contains(modules, d.Path) {
			said = append(said, d.Path+" "+d.Version)
		}
	}
	return strings.Join(said, ", ") + ", " + info.GoVersion
}

// versionOf is the first line that a program says when it is asked for its version.
func versionOf(ctx context.Context, path string) string {
	said, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "of an unknown version"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	return line
}
