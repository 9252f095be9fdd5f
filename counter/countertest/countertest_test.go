package countertest

import (
	"testing"

	"github.com/tierkeeper/tierkeeper/counter"
)

// TestModel holds the model to the examples, so that the comparison with it is worth something.
func TestModel(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) counter.Store { return newModel() })
}
