package stack

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

func TestAPortIsOneGateways(t *testing.T) {
	t.Parallel()
	at := func(name string, ports ...int32) v1alpha1.QuotaGateway {
		g := v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name}}
		for _, port := range ports {
			g.Spec.Listeners = append(g.Spec.Listeners, v1alpha1.Listener{Name: "http", Port: port})
		}
		return g
	}
	all := []v1alpha1.QuotaGateway{at("first", 8080, 8443), at("second", 8081, 8443), at("third", 8081)}
	for name, tc := range map[string]struct {
		gateway v1alpha1.QuotaGateway
		running []string
		want    string
	}{
		"the first":                 {all[0], nil, ""},
		"a port of one that runs":   {all[1], []string{"edge/first"}, "QuotaGateway edge/second: no Envoy serves it, because edge/first has its port 8443 on this machine; give spec.listeners[name=http] another port, or delete edge/first"},
		"a port of one that waits":  {all[2], []string{"edge/first"}, ""},
		"a port of one that is out": {all[1], []string{"edge/gone"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			running := map[string]bool{}
			for _, r := range tc.running {
				running[r] = true
			}
			if diff := cmp.Diff(tc.want, clash(&tc.gateway, all, running)); diff != "" {
				t.Errorf("what is said (-want +got):\n%s", diff)
			}
		})
	}
}
