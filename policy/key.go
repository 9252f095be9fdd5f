package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// DigestPrefix stands before the hexadecimal digits in the written form of a Digest.
const DigestPrefix = "sha256:"

// A Digest is the SHA-256 of an API key. It is the only form in which an API key exists outside the Secret that holds it
// and the request that carries it.
type Digest [sha256.Size]byte

// HashKey is the one function through which API keys pass.
func HashKey(key []byte) Digest { return sha256.Sum256(key) }

// ParseDigest reads the form that String writes.
func ParseDigest(s string) (d Digest, ok bool) {
	digits, ok := strings.CutPrefix(s, DigestPrefix)
	if !ok || len(digits) != 2*len(d) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(digits))
	return d, err == nil
}

// String is "sha256:" and 64 hexadecimal digits.
func (d Digest) String() string { return DigestPrefix + hex.EncodeToString(d[:]) }

// A Key is what may be known of a value of a Secret, such as an API key.
type Key struct {
	Digest  Digest
	Empty   bool // nothing but white space
	Invalid bool // no client could send it: see ReadKey
	Bundle  bool // certificates in PEM, and nothing else
}

// ReadKey looks at the content of a Secret that holds an API key. White space around it is dropped, because a line end
// gets there by accident and no header can carry it. White space, control characters and commas within make it invalid:
// a comma separates two keys where a header is repeated.
func ReadKey(content []byte) Key {
	key := bytes.TrimSpace(content)
	if len(key) == 0 {
		return Key{Empty: true}
	}
	for _, c := range key {
		if c <= ' ' || c == ',' || c >= 0x7f {
			return Key{Invalid: true, Bundle: isBundle(key)}
		}
	}
	return Key{Digest: HashKey(key)}
}
