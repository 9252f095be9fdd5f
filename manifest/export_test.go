package manifest

// Quiet and Longest bound the time from a change until it is told; Settle is the wait itself.
const (
	Quiet   = quiet
	Longest = longest
)

var Settle = settle
