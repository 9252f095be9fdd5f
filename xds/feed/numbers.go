package feed

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tierkeeper/tierkeeper/policy"
)

// What the numbers of feedv1's enums mean, from 1. Zero is for what is not said.
var (
	metrics    = []policy.Metric{policy.Requests, policy.Tokens, policy.InputTokens, policy.OutputTokens, policy.ConcurrentRequests}
	pers       = []policy.Per{policy.Second, policy.Minute, policy.Hour, policy.Day, policy.Month}
	algorithms = []policy.Algorithm{policy.FixedWindow, policy.SlidingWindow}
	storeOuts  = []policy.StoreOut{policy.StoreOutAllow, policy.StoreOutDeny}
	resets     = []policy.Reset{policy.ResetUnixSeconds, policy.ResetDeltaSeconds, policy.ResetDuration}
)

type enum interface {
	~int32
	protoreflect.Enum
}

// number is 0 for what has none.
func number[E enum, P comparable](p P, of []P) E { return E(slices.Index(of, p) + 1) }

// meaning refuses zero, and a number of which only a newer version knows.
func meaning[E enum, P comparable](e E, of []P) (p P, err error) {
	if e < 1 || int(e) > len(of) {
		return p, fmt.Errorf("number %d of %s is not known here", e, e.Descriptor().Name())
	}
	return of[e-1], nil
}
