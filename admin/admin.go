// Package admin decides what an operator can ask of a running service over HTTP, who may ask, and how that is put: it has the
// handler and the client.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const (
	blocksPath = "/admin/blocks"
	shadowPath = "/admin/shadow"
	minToken   = 16 // characters
)

// A Service is what is administered; a ratelimit.Limiter is one.
type Service interface {
	Blocks(ctx context.Context) ([]ratelimit.Block, error)
	Lift(ctx context.Context, id string) (bool, error)
	Shadows() (list []ratelimit.Shadow, more int64)
	KeyUsage(ctx context.Context, quota policy.Name) (k ratelimit.KeyUsage, known bool, err error)
	KeyUsages(ctx context.Context, namespace string, most int) (list []ratelimit.KeyUsage, more int, err error)
	Alone() bool
}

// blockList is the answer to GET.
type blockList struct {
	Blocks []ratelimit.Block `json:"blocks"`
}

// shadowList is the answer to GET: what would have been refused since the process began.
type shadowList struct {
	Shadow []ratelimit.Shadow `json:"shadow"`
	More   int64              `json:"more"` // refusals that are not told apart
}

// failed is the body of every answer that is no success.
type failed struct {
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
}

// Handler serves GET /admin/blocks, DELETE /admin/blocks/{id}, GET /admin/shadow and GET /admin/usage. With a token it answers whoever brings that. Without one, which
// is for loopback only, it answers programs on the machine that ask for it by a name of loopback: no page in a browser, and no
// gateway that has the address for a backend.
func Handler(s Service, token string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+blocksPath, func(w http.ResponseWriter, r *http.Request) {
		blocks, err := s.Blocks(r.Context())
		if err != nil {
			fail(w, http.StatusServiceUnavailable, "The blocks cannot be read: "+err.Error()+".")
			return
		}
		if blocks == nil {
			blocks = []ratelimit.Block{} // [], and not null
		}
		answer(w, http.StatusOK, blockList{blocks})
	})
	mux.HandleFunc("GET "+shadowPath, func(w http.ResponseWriter, _ *http.Request) {
		list, more := s.Shadows()
		if list == nil {
			list = []ratelimit.Shadow{}
		}
		answer(w, http.StatusOK, shadowList{list, more})
	})
	mux.HandleFunc("GET "+usagePath, usage(s))
	mux.HandleFunc("DELETE "+blocksPath+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		switch lifted, err := s.Lift(r.Context(), id); {
		case errors.Is(err, ratelimit.ErrBlockID):
			fail(w, http.StatusBadRequest, fmt.Sprintf("%q is no id of a block. GET %s lists them.", id, blocksPath))
		case err != nil:
			fail(w, http.StatusServiceUnavailable, "The block cannot be lifted: "+err.Error()+".")
		case !lifted:
			fail(w, http.StatusNotFound, "No block of this id is in force; it may be over. GET "+blocksPath+" lists those that are.")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if token == "" {
		return OnlyPrograms(mux)
	}
	return onlyWith(token, mux)
}

func onlyWith(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		// Digests have one length, so that the time tells nothing of the token's.
		if got := sha256.Sum256([]byte(given)); subtle.ConstantTimeCompare(got[:], want[:]) == 0 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "The token is missing or wrong. Send it in the header Authorization: Bearer TOKEN.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// proxied are headers that proxies add. Our own Envoys add X-Forwarded-Proto and X-Request-Id to all that they forward, and no
// gateway can have them removed: the API takes neither for a place of keys.
var proxied = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id"}

// OnlyPrograms is for what is served on loopback without a token: it answers programs on the machine that ask for it by a name of
// loopback, and neither pages in a browser nor what comes through a gateway.
func OnlyPrograms(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page can make a browser ask an address of loopback, by a name of its own too.
		if !mtls.IsLoopback(r.Host) {
			fail(w, http.StatusForbidden, "Ask by an address of loopback or localhost: without a token nothing else is answered.")
			return
		}
		if r.Header.Get("Origin") != "" {
			fail(w, http.StatusForbidden, "Browsers are not answered without a token.")
			return
		}
		for _, name := range proxied {
			if r.Header.Get(name) != "" {
				fail(w, http.StatusForbidden, "What comes through a proxy is not answered without a token.")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Token reads the token for an address to serve at. An address that other machines can reach must have one; a file need not be
// named for loopback, and there is no token then.
func Token(address, file string) (string, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return "", fmt.Errorf("reading host:port: %w", err)
	}
	if file != "" {
		return ReadToken(file)
	}
	if !mtls.IsLoopback(address) {
		return "", fmt.Errorf("other machines may reach %s: name a file that holds a token, or choose an address of loopback", address)
	}
	return "", nil
}

// ReadToken reads the file, without white space around the token.
func ReadToken(file string) (string, error) {
	content, err := os.ReadFile(file) //nolint:gosec // The operator names it.
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if len(token) < minToken {
		return "", fmt.Errorf("the token in %s has %d characters, and must have at least %d", file, len(token), minToken)
	}
	return token, nil
}

func fail(w http.ResponseWriter, status int, message string) {
	var body failed
	body.Error.Message = message
	answer(w, status, body)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // Whoever has gone away need not be told.
}
