package pause_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/pause"
)

func TestAPauseLastsUnlessItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()                                         //nolint:forbidigo // In a bubble.
		passed := func() time.Duration { return time.Since(began) } //nolint:forbidigo // As above.
		if lasted := pause.For(ctx, 2*time.Second); !lasted || passed() != 2*time.Second {
			t.Errorf("it lasted: %v, until %v", lasted, passed())
		}
		if lasted := pause.For(ctx, 2*time.Second); lasted || passed() != 3*time.Second {
			t.Errorf("beyond its context it lasted: %v, until %v", lasted, passed())
		}
	})
}
