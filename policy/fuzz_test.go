package policy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

var sendable = regexp.MustCompile(`^[\x21-\x2b\x2d-\x7e]+$`) // printable ASCII but for the space and the comma

// FuzzReadKey checks that what a Secret holds is a key exactly if a header can carry it, and what its digest is.
func FuzzReadKey(f *testing.F) {
	for _, seed := range []string{"", " \n", "sk-1", " sk-1\r\n", "sk-1,sk-2", "sk 1", "\x00", "sk-\u00e4", "\u00a0sk-1\u2003", "\x7f"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		key, plain := policy.ReadKey(content), bytes.TrimSpace(content)
		want := policy.Key{Empty: len(plain) == 0}
		switch {
		case want.Empty:
		case sendable.Match(plain):
			want.Digest = sha256.Sum256(plain)
		default:
			want.Invalid = true
		}
		if key != want {
			t.Errorf("got %+v, want %+v", key, want)
		}
		if again := policy.ReadKey(slices.Concat([]byte("\n "), content, []byte("\r\n"))); again != key {
			t.Errorf("white space around it changes %+v to %+v", key, again)
		}
	})
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-fA-F]{64}$`)

// FuzzParseDigest checks which strings are digests, and that a digest is written as it was read.
func FuzzParseDigest(f *testing.F) {
	valid := policy.HashKey([]byte("sk-1")).String()
	for _, seed := range []string{"", "sha256:", valid, strings.ToUpper(valid), valid + "0", valid[1:], "sha256:" + valid, " " + valid} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := policy.ParseDigest(s)
		if want := digestForm.MatchString(s); ok != want {
			t.Fatalf("ParseDigest(%q) says %t, want %t", s, ok, want)
		}
		if !ok {
			return
		}
		if got, want := d.String(), strings.ToLower(s); got != want {
			t.Errorf("read %q, wrote %q", want, got)
		}
		if again, stillOK := policy.ParseDigest(d.String()); !stillOK || again != d {
			t.Errorf("%s is read back as %s", d, again)
		}
	})
}

var nameForm = regexp.MustCompile(`^[^*]+\*?$`) // as in the schema

// FuzzMatcher gives each line of names to a ModelLimit of its own and asks which of them a model belongs to.
func FuzzMatcher(f *testing.F) {
	f.Add("gpt-*\ngpt-4*\ngpt-4o", "gpt-4o")
	f.Add("gpt-*\ngpt-4*\ngpt-4o", "gpt-4o-mini")
	f.Add("a\na*\naa*\nb*", "aab")
	f.Add("a*", "a")
	f.Add("a*", "a*")
	f.Add("\u00e4*\n\u00e4", "\xc3")
	f.Add("a", "")
	f.Fuzz(func(t *testing.T, lines, model string) {
		var names []string
		var in policy.Input
		for name := range strings.SplitSeq(lines, "\n") {
			if !nameForm.MatchString(name) || len(name) > policy.MaxModelLength || slices.Contains(names, name) {
				continue
			}
			m := v1alpha1.ModelLimit{Spec: v1alpha1.ModelLimitSpec{Models: []string{name}, Resource: fmt.Sprint("of ", name)}}
			m.Name = fmt.Sprint(len(names))
			in.Models, names = append(in.Models, &m), append(names, name)
		}
		name, resource := "", ""
		if all := matches(names, model); len(all) > 0 && model != "" {
			name, resource = all[0], fmt.Sprint("of ", all[0])
		}
		table, _ := policy.Compile(in)
		if got := table.Canonical(model); got != name {
			t.Errorf("of %q, %q belongs to %q, want %q", names, model, got, name)
		}
		if got := table.Resource(nil, model); got != resource {
			t.Errorf("of %q, %q serves %q, want %q", names, model, got, resource)
		}
	})
}
