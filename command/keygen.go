package command

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/policy"
)

// keyBytes is the entropy of a new key: more than anybody can guess.
const keyBytes = 32

func newKeygen() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a new API key and its digest",
		Long: `Keygen makes an API key of 256 random bits and prints it with its digest. Give the key to its holder, and put either the
digest into spec.keys of an ApiKeyQuota or the key into a Secret that the ApiKeyQuota names. The key is kept nowhere else: who
has only the digest cannot get it back.`,
		Example: `  # A key, and what to do with it.
  {{name}} keygen

  # Key and digest for scripts.
  {{name}} keygen -o json`,
		Args: flagsOnly,
		RunE: work(func(cmd *cobra.Command, _ []string) error { return printKey(cmd.OutOrStdout(), output) }),
	}
	output.addFlag(cmd)
	return cmd
}

// newKey makes a key whose beginning tells scanners for leaked credentials what it is.
func newKey() string {
	var random [keyBytes]byte
	_, _ = rand.Read(random[:]) // it never fails, but ends the program instead
	return "tk-" + base64.RawURLEncoding.EncodeToString(random[:])
}

func printKey(w io.Writer, output format) error {
	key := newKey()
	digest := policy.HashKey([]byte(key)).String()
	if output != formatText {
		return printData(w, output, newKeyReport{key, digest})
	}
	_, err := fmt.Fprintf(w, keyText, key, digest, digest, key)
	return err
}

// newKeyReport is what keygen prints for scripts.
type newKeyReport struct {
	Key    string `json:"key"`
	Digest string `json:"digest"`
}

const keyText = `key:     %s
digest:  %s

Give the key to its holder; it is shown this once. In the ApiKeyQuota name either its digest

  keys:
  - name: primary
    digest: %s

or a Secret of the same namespace that holds it:

  keys:
  - name: primary
    secretKeyRef: {name: my-key, key: token}

  apiVersion: v1
  kind: Secret
  metadata:
    name: my-key
    labels: {tierkeeper.io/secret: "true"}
  stringData:
    token: %s
`
