package envoy_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

func TestSecretsRotateUnderOpenStreams(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	r := chat(keyClient, prompt{maxTokens: 100, stream: true}, "x-demo-tokens: 100", "x-demo-token-delay: 1h").at("main")
	var streams []*stream
	for _, versions := range [][]string{{"http/1.1"}, nil} {
		s.guest = guest(s.sites, s.port, site, versions...)
		streams = append(streams, s.openAll(t, 25, r)...)
	}
	for _, st := range streams {
		st.awaitTokens(t, 1)
	}

	// New connections are shown the new certificate, the next request carries the new key, and a provider that moves to
	// another authority is believed.
	site2, authority2 := s.sites.Issue(t, site), testca.New(t, "providers, the second")
	s.write(t, "site.yaml", certificateOf("site", site2))
	s.write(t, "key.yaml", secretOf("provider-key", "Opaque", "token", "sk-the-next"))
	s.write(t, "bundle.yaml", secretOf("bundle", "Opaque", "ca.crt", s.providers.PEM+authority2.PEM))
	eventually(t, soon, "new connections are shown the new certificate", func() bool { return shows(t, s.port, site, site2) })
	fresh := &system{port: s.port, guest: guest(s.sites, s.port, site)}
	eventually(t, soon, "a request carries the new key", func() bool {
		fresh.pass(t, chat(keyClient, prompt{}).at("main"))
		return s.provider.last(t).Header.Get("Authorization") == "Bearer sk-the-next"
	})
	s.provider.identify(t, authority2.Issue(t, upstream))
	s.provider.hangsUp.Store(true)
	eventually(t, soon, "the provider has a new connection, and is believed", func() bool {
		before := s.provider.handshakes.Load()
		a := fresh.send(t, chat(keyClient, prompt{}).at("main")) // The bundle may come after the rest.
		return a.status == http.StatusOK && s.provider.handshakes.Load() > before
	})

	close(s.provider.goOn)
	for i, st := range streams {
		body, err := st.end(t)
		if err != nil || !strings.HasSuffix(strings.TrimSpace(body), "data: [DONE]") || st.tokens.Load() != 100 {
			t.Errorf("stream %d broke after %d tokens: %v", i, st.tokens.Load(), err)
		}
	}
	s.checkUntouched(t)

	// The first authority is not believed any more once it is gone from the bundle.
	s.write(t, "bundle.yaml", secretOf("bundle", "Opaque", "ca.crt", authority2.PEM))
	s.provider.identify(t, s.providers.Issue(t, upstream))
	eventually(t, soon, "the first authority is not believed any more", func() bool {
		return strings.Contains(fresh.send(t, chat(keyClient, prompt{}).at("main")).body, `"code":"provider_unavailable"`)
	})
	fresh.unavailable(t, "main")
}

// checkUntouched demands that Envoy changed nothing but secrets since it started.
func (s *system) checkUntouched(t *testing.T) {
	t.Helper()
	places := map[string]string{}
	s.administration(t, places)
	got, want := map[string]string{}, map[string]string{
		"listener_manager.listener_added": "1", "listener_manager.listener_modified": "0", "listener_manager.listener_removed": "0",
		"listener_manager.listener_in_place_updated": "0", "listener_manager.total_listeners_draining": "0",
		"listener_manager.total_filter_chains_draining": "0", "cluster_manager.cluster_modified": "0", "cluster_manager.cluster_removed": "0",
	}
	for name := range want {
		if value := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `: (\d+)$`).FindStringSubmatch(places["/stats"]); value != nil {
			got[name] = value[1]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Envoy's counts of what it changed (-want +got):\n%s", diff)
	}
}
