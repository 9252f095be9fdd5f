package server

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func rejecting(kind, message string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind, ErrorDetail: status.New(codes.Internal, message).Proto()}
}

// The messages are of Envoy 1.40.
func TestWordsOfEnvoyAreGivenToWhomTheyAreAbout(t *testing.T) {
	t.Parallel()
	names := []string{"edge/one/a", "edge/one/ab", "edge/one/b"}
	tests := map[string]struct {
		kind, message string
		want          map[string]string
		named         bool
	}{
		"one listener": {
			resourcev3.ListenerType, "Error adding/updating listener(s) edge/one/ab: cannot bind '10.0.0.1:80': Cannot assign requested address\n",
			map[string]string{"edge/one/ab": "edge/one/ab: cannot bind '10.0.0.1:80': Cannot assign requested address"},
			true,
		},
		"two listeners": {
			resourcev3.ListenerType, "Error adding/updating listener(s) edge/one/b: x\nof two lines\nedge/one/a: y\n",
			map[string]string{"edge/one/a": "edge/one/a: y", "edge/one/b": "edge/one/b: x\nof two lines"},
			true,
		},
		"two clusters": {
			resourcev3.ClusterType, "Error adding/updating cluster(s) edge/one/a: x, and more, edge/one/ab: y",
			map[string]string{"edge/one/a": "edge/one/a: x, and more", "edge/one/ab": "edge/one/ab: y"},
			true,
		},
		"a name in the middle of the words is not what they are about": {
			resourcev3.RouteType, "route: unknown cluster 'edge/one/a: '",
			map[string]string{
				"edge/one/a": "route: unknown cluster 'edge/one/a: '", "edge/one/ab": "route: unknown cluster 'edge/one/a: '",
				"edge/one/b": "route: unknown cluster 'edge/one/a: '",
			},
			false,
		},
		"a name that is not in the response": {
			resourcev3.ListenerType, "Error adding/updating listener(s) edge/one/zzz: x",
			map[string]string{
				"edge/one/a": "Error adding/updating listener(s) edge/one/zzz: x", "edge/one/ab": "Error adding/updating listener(s) edge/one/zzz: x",
				"edge/one/b": "Error adding/updating listener(s) edge/one/zzz: x",
			},
			false,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, named := rejections(rejecting(tc.kind, tc.message), names)
			if diff := cmp.Diff(tc.want, got); diff != "" || named != tc.named {
				t.Errorf("named: %t; words (-want +got):\n%s", named, diff)
			}
		})
	}
}

// Whatever Envoy says, somebody is rejected, with words that are not empty, not too long, and not of a Secret.
func FuzzWords(f *testing.F) {
	f.Add("Error adding/updating listener(s) a: x\nb: y\n", "a", "b")
	f.Add("Error adding/updating cluster(s) a: x, b: y", "a", "b")
	f.Add("Error adding/updating listener(s) a: : a: \n", "a", ": ")
	f.Add("", "", "a: a")
	f.Add(strings.Repeat("ü", maxWords), "a", "b")
	f.Fuzz(func(t *testing.T, message, a, b string) {
		if !utf8.ValidString(message) || !utf8.ValidString(a) || !utf8.ValidString(b) {
			t.Skip("gRPC brings no such text")
		}
		names := []string{a, b}
		for kind := range kinds {
			words, _ := rejections(rejecting(kind, message), names)
			if len(words) == 0 {
				t.Errorf("nobody is rejected by %q", message)
			}
			for name, why := range words {
				switch {
				case !slices.Contains(names, name):
					t.Errorf("%q is rejected, which is none of %q", name, names)
				case kind == resourcev3.SecretType && why != name+": "+aboutSecret:
					t.Errorf("words about a Secret: %q", why)
				case kind != resourcev3.SecretType && (why == "" || len(why) > maxWords || !utf8.ValidString(why)):
					t.Errorf("words of %d bytes: %q", len(why), why)
				}
			}
		}
	})
}
