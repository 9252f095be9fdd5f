package standalone

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

func TestNoTwoGatewaysShareAPort(t *testing.T) {
	t.Parallel()
	gateway := func(name string, ports ...uint32) *policy.Gateway {
		g := &policy.Gateway{Name: policy.Name{Namespace: "team", Name: name}}
		for _, p := range ports {
			g.Listeners = append(g.Listeners, policy.Listener{Port: p})
		}
		return g
	}
	all := []*policy.Gateway{gateway("a", 8080, 8081), gateway("b", 8082), gateway("c", 8083, 8081), gateway("d", 8084)}
	for name, tc := range map[string]struct {
		override uint32
		held     map[uint32]string
		want     []string
		says     string
	}{
		"by their own ports":    {0, nil, []string{"a", "b", "d"}, "QuotaGateway team/c is not served: team/a has port 8081 already"},
		"by the port given":     {9000, nil, []string{"b"}, "QuotaGateway team/a is not served: --port is for one gateway with one listener; leave it out, and each listener has its own"},
		"who had it keeps it":   {0, map[uint32]string{8081: "c"}, []string{"b", "c", "d"}, "QuotaGateway team/a is not served: team/c has port 8081 already"},
		"who is gone does not":  {0, map[uint32]string{8081: "z"}, []string{"a", "b", "d"}, "QuotaGateway team/c is not served: team/a has port 8081 already"},
		"who left it does not":  {0, map[uint32]string{8081: "b"}, []string{"a", "b", "d"}, "QuotaGateway team/c is not served: team/a has port 8081 already"},
		"of the port given too": {9000, map[uint32]string{9000: "d"}, []string{"d"}, "QuotaGateway team/a is not served: --port is for one gateway with one listener; leave it out, and each listener has its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			held := map[uint32]policy.Name{}
			for port, name := range tc.held {
				held[port] = gateway(name).Name
			}
			gateways, errs := onePortEach(all, tc.override, held)
			var got []string
			for _, g := range gateways {
				got = append(got, g.Name.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
			if len(errs) == 0 || errs[0].Error() != tc.says {
				t.Errorf("got %v, want %q", errs, tc.says)
			}
		})
	}
}

func TestStateOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := loadState(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Accepted{Quotas: map[string]policy.AcceptedQuota{"team/app": {User: "ann", Tier: "free@1", Keys: []policy.AcceptedKey{{Name: "main", Digest: "sha256:00"}}}}}
	s.ports = map[uint32]policy.Name{8080: {Namespace: "team", Name: "main"}}
	if err := s.keep(want); err != nil {
		t.Fatal(err)
	}
	again, err := loadState(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again.accepted); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(s.ports, again.ports); diff != "" {
		t.Errorf("ports after a restart (-want +got):\n%s", diff)
	}
}

func TestADamagedStateSaysWhatToDo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete the file") {
		t.Errorf("got error %v, want one that names %s and says to delete it", err, path)
	}
}

// What a start cannot read may go on; what is deleted later is gone, whatever else is broken.
func TestWhatIsLostAtTheStart(t *testing.T) {
	t.Parallel()
	named := policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team", Name: "named"}}
	other := policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team", Name: "other"}}
	for name, tc := range map[string]struct {
		problems     []manifest.Problem
		named, other bool
	}{
		"all is well":               {nil, false, false},
		"one object is invalid":     {[]manifest.Problem{{Object: named, Reason: manifest.ReasonInvalid}}, true, false},
		"a document cannot be read": {[]manifest.Problem{{Reason: manifest.ReasonUnreadable}}, true, true},
	} {
		lost := lostAtStart(tc.problems)
		if lost(named) != tc.named || lost(other) != tc.other {
			t.Errorf("%s: lost are %t and %t, want %t and %t", name, lost(named), lost(other), tc.named, tc.other)
		}
	}
}

func TestACallOfEachProtocolIsShown(t *testing.T) {
	t.Parallel()
	g := &policy.Gateway{Sources: []policy.KeySource{{Header: "x-api-key"}}}
	for _, p := range policy.Protocols() {
		g.Routes = []policy.Route{{Path: "/models", Method: http.MethodPost, Protocol: p}}
		if lines := curlLines(g, door{scheme: "http", address: "127.0.0.1:8080"}, "$KEY"); len(lines) != 1 || !strings.Contains(lines[0], " -d ") && !strings.Contains(lines[0], " -F ") {
			t.Errorf("of %s these calls are shown: %q, want one with a body", p, lines)
		}
	}
}
