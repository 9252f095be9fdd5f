package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A tree is the files under a directory, and what else decides which files these are.
type tree struct {
	root     string
	files    []string         // sorted
	dirs     map[string]bool  // real paths
	links    map[dirName]bool // symbolic links and their targets, the root, and what is missing on the way to one of them
	problems []Problem

	visit func(dir string) // is told of each real directory before it is looked into; may be nil
	seen  map[string]bool  // real paths of files
}

// A dirName is a name in a directory, which has its real path.
type dirName struct{ dir, name string }

// walk finds the manifests at a path: the path itself if it is a file, else all files below it that end in .yaml, .yml or
// .json. Names that begin with a dot are left out, and so is what a symbolic link leads to a second time; a ConfigMap's
// volume, where each file is a link through a hidden one, is read as it is meant.
func walk(root string, visit func(dir string)) *tree {
	if visit == nil {
		visit = func(string) {}
	}
	t := &tree{root: filepath.Clean(root), visit: visit, dirs: map[string]bool{}, links: map[dirName]bool{}, seen: map[string]bool{}}
	actual, err := t.follow(t.root)
	if err != nil {
		t.unreadable(t.root, err)
		return t
	}
	t.link(filepath.Dir(actual), filepath.Base(actual))
	info, err := os.Stat(actual)
	switch {
	case err != nil:
		t.unreadable(t.root, err)
	case info.IsDir():
		t.dir(t.root, actual, nil)
		if len(t.files) == 0 && len(t.problems) == 0 {
			t.problem(t.root, "This directory holds no manifest: no file in it ends in .yaml, .yml or .json.")
		}
	default:
		t.file(t.root, actual, info)
	}
	slices.Sort(t.files)
	return t
}

func (t *tree) dir(path, actual string, above []string) {
	if slices.Contains(above, actual) {
		t.problem(path, "This symbolic link leads back to a directory above it; remove it.")
		return
	}
	if t.dirs[actual] {
		return
	}
	t.dirs[actual] = true
	t.visit(actual)
	entries, err := os.ReadDir(actual)
	if err != nil {
		t.unreadable(path, err)
	}
	for _, e := range entries {
		if !hidden(e.Name()) {
			t.entry(filepath.Join(path, e.Name()), filepath.Join(actual, e.Name()), e, append(above, actual))
		}
	}
}

func (t *tree) entry(path, actual string, e fs.DirEntry, above []string) {
	if e.Type()&fs.ModeSymlink == 0 {
		if e.IsDir() {
			t.dir(path, actual, above)
		} else if info, err := e.Info(); err == nil && isManifest(path) {
			t.file(path, actual, info)
		}
		return
	}
	target, err := t.follow(actual)
	if err != nil {
		t.unreadable(path, err)
		return
	}
	info, err := os.Stat(target)
	switch {
	case err != nil:
		t.unreadable(path, err)
	case info.IsDir():
		t.dir(path, target, above)
	case isManifest(path):
		t.link(filepath.Dir(target), filepath.Base(target))
		t.file(path, target, info)
	}
}

// link notes a name that decides what is in the tree.
func (t *tree) link(dir, name string) {
	t.visit(dir)
	t.links[dirName{dir, name}] = true
}

func (t *tree) file(path, actual string, info fs.FileInfo) {
	if t.seen[actual] {
		return
	}
	t.seen[actual] = true
	switch {
	case !info.Mode().IsRegular():
		t.problem(path, "This is not a regular file, so it cannot be read as a manifest.")
	case info.Size() > MaxFileBytes:
		t.problem(path, fmt.Sprintf("This file is larger than %d MiB; split it.", MaxFileBytes>>20))
	default:
		t.files = append(t.files, path)
	}
}

func (t *tree) problem(path, message string) {
	t.problems = append(t.problems, Problem{Source: Source{File: path}, Reason: ReasonUnreadable, Message: message})
}

func (t *tree) unreadable(path string, err error) { t.problem(path, whyUnreadable(err)) }

func whyUnreadable(err error) string {
	var p *fs.PathError
	switch {
	case errors.Is(err, syscall.ELOOP):
		return "This symbolic link leads in a circle; remove it."
	case errors.Is(err, fs.ErrNotExist):
		return "There is no such file or directory."
	case errors.Is(err, fs.ErrPermission):
		return "Permission to read this is denied."
	case errors.As(err, &p):
		return fmt.Sprintf("This cannot be read: %v.", p.Err)
	}
	return fmt.Sprintf("This cannot be read: %v.", err)
}

// follow finds the real path behind symbolic links, as filepath.EvalSymlinks does, and notes the links on the way and
// what is missing: when one of them changes, so does the tree. It notes first and looks afterwards, so that a change
// between the two is seen.
func (t *tree) follow(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	const separator = string(filepath.Separator)
	actual, rest := filepath.VolumeName(path)+separator, path[len(filepath.VolumeName(path)):]
	for links := 0; ; {
		name, after, _ := strings.Cut(strings.TrimLeft(rest, separator), separator)
		next := filepath.Join(actual, name)
		if name == "" {
			return actual, nil
		}
		info, err := os.Lstat(next)
		if err != nil {
			t.link(actual, name)
			info, err = os.Lstat(next)
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			actual, rest = next, after
			continue
		}
		t.link(actual, name)
		if links++; links > 255 {
			return "", &fs.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			actual = filepath.VolumeName(target) + separator
		}
		rest = target + separator + after // not cleaned: "x/.." is not always nothing where x is a link
	}
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
