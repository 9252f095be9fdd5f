package standalone

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/policy"
)

func TestTheFirstRequestOfEachProtocolIsSpelledOut(t *testing.T) {
	t.Parallel()
	g := &policy.Gateway{
		Sources: []policy.KeySource{{Header: "authorization", Prefix: "Bearer "}},
		Routes: []policy.Route{
			{Path: "/v1/audio", Method: "POST", Protocol: policy.JSONBody},
			{Path: "/api/v1/chat", PathPrefix: "/api", Method: "POST", Protocol: policy.OpenAIChat},
			{Path: "/v1/chat", Method: "POST", Protocol: policy.OpenAIChat},
			{Path: "/v1/models", Method: "GET", Protocol: policy.Opaque, Unmetered: true},
		},
	}
	for name, tc := range map[string]struct {
		door
		want string
	}{
		"any name":       {door{"http", "127.0.0.1:8080", ""}, `curl -i "http://127.0.0.1:8080`},
		"one name":       {door{"https", "127.0.0.1:8443", "a.test"}, `curl -i --resolve a.test:8443:127.0.0.1 "https://a.test:8443`},
		"names below it": {door{"https", "127.0.0.1:8443", "*.test"}, `curl -i --resolve any.test:8443:127.0.0.1 "https://any.test:8443`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, line := range curlLines(g, tc.door, "$KEY") {
				request, _, _ := strings.Cut(line, `" -H "authorization: Bearer $KEY"`)
				got = append(got, request)
			}
			if diff := cmp.Diff([]string{tc.want + "/v1/chat", tc.want + "/v1/audio"}, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}
