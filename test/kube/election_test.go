package kube_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/election"
)

// A leader whose work fails lets others lead, and no two lead at once.
func TestWhoFailsLetsOthersLead(t *testing.T) {
	t.Parallel()
	c := connect(t)
	const namespace = "election"
	create(t, c, parse(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}"))
	ctx, stop := context.WithCancel(t.Context())
	var leading atomic.Int64
	var terms [2]atomic.Int64
	done := make(chan error)
	for i := range terms {
		e := election.Election{
			Config: server, Namespace: namespace, Name: "work", Identity: fmt.Sprint("replica-", i), Log: slog.New(slog.DiscardHandler), Lasts: 2 * time.Second,
		}
		go func() {
			done <- e.Lead(ctx, func(context.Context) error {
				if leading.Add(1) > 1 {
					t.Error("two lead at once")
				}
				defer leading.Add(-1)
				terms[i].Add(1)
				return errors.New("it cannot be done")
			})
		}()
	}
	awaitTrue(t, "both have led", func() bool { return terms[0].Load() > 0 && terms[1].Load() > 0 })
	stop()
	for range terms {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAnElectionThatCannotBeSaysSo(t *testing.T) {
	t.Parallel()
	connect(t)
	e := election.Election{Config: server, Namespace: "default", Name: "work", Log: slog.New(slog.DiscardHandler)}
	err := e.Lead(t.Context(), func(context.Context) error { return nil })
	if err == nil {
		t.Error("an election without an identity was held")
	}
}
