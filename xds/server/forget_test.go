package server_test

import (
	"fmt"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

func withdraw(t *testing.T, c *control, gateway policy.Name) {
	t.Helper()
	if err := c.Withdraw(t.Context(), gateway); err != nil {
		t.Fatal(err)
	}
}

// connected waits until so many names are connected.
func connected(t *testing.T, c *control, names int) {
	t.Helper()
	late := time.After(enough)
	for len(c.Gateways()) != names {
		select {
		case <-c.changed:
		case <-late:
			t.Fatalf("%v are connected, want %d", c.Gateways(), names)
		}
	}
}

// hangUp ends the only stream, and waits until the server knows.
func hangUp(t *testing.T, c *control, e *envoyClient) {
	t.Helper()
	if err := e.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	connected(t, c, 0)
}

func TestAWithdrawnGatewayIsForgottenWithItsLastEnvoy(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, resources(t, one, "/1"))
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	withdraw(t, c, one)
	for range 3 {
		e.next(t)
	}
	e.pending(t) // so that the answers have arrived
	if !c.Knows(one.String()) {
		t.Error("it is forgotten while an Envoy is connected")
	}
	hangUp(t, c, e)
	if c.Knows(one.String()) {
		t.Error("something is kept of a gateway that is gone and of which no Envoy has anything")
	}

	publish(t, c, one, resources(t, one, "/1"))
	e = c.connect(t, one.String())
	compare(t, "updates once it is there again", everything(one), e.begin(t, one.String()))
	hangUp(t, c, e)
	if !c.Knows(one.String()) {
		t.Error("a gateway is forgotten that is there")
	}
}

// An Envoy whose stream broke before it had answered serves what is gone, until it hears of it.
func TestAnEnvoyThatComesBackIsToldThatItsGatewayIsGone(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(t *testing.T, c *control, e *envoyClient){
		"it was away before": func(t *testing.T, c *control, e *envoyClient) {
			t.Helper()
			hangUp(t, c, e)
			withdraw(t, c, one)
		},
		"it went without an answer": func(t *testing.T, c *control, e *envoyClient) {
			t.Helper()
			withdraw(t, c, one)
			hangUp(t, c, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			publish(t, c, one, resources(t, one, "/1"))
			e := c.connect(t, one.String())
			e.begin(t, one.String())
			away(t, c, e)
			back := c.connect(t, one.String())
			back.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: listeners, InitialResourceVersions: map[string]string{"edge/one/http": "1"}})
			compare(t, "difference", update{Kind: listeners, Removed: []string{"edge/one/http"}}, back.next(t))
		})
	}
}

func TestANameThatAClientMadeUpIsForgotten(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, name := range []string{"edge/nobody", "nonsense"} {
		e := c.connect(t, name)
		e.subscribe(t, clusters)
		connected(t, c, 1)
		hangUp(t, c, e)
		if c.Knows(name) {
			t.Errorf("something is kept of %s", name)
		}
	}
}

func TestOnlySoManyWithdrawnGatewaysAreKept(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, other, resources(t, other, "/1"))
	withdraw(t, c, one)
	withdraw(t, c, other)
	publish(t, c, other, resources(t, other, "/1")) // It is there again.
	for i := range server.MaxAwaited {
		withdraw(t, c, policy.Name{Namespace: "gone", Name: fmt.Sprint(i)})
	}
	if c.Knows(one.String()) {
		t.Error("what was withdrawn first is kept beside as many as may be")
	}
	if !c.Knows(other.String()) || !c.Knows("gone/0") || !c.Knows(fmt.Sprint("gone/", server.MaxAwaited-1)) {
		t.Error("what is there, or was withdrawn last, is forgotten")
	}
}
