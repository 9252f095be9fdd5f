package ratelimit

import (
	"math"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// What is assumed where nobody reports tokens.
const (
	inputTokensPerByte = 0.25
	// The envelope of a JSON answer, and the events around a stream, bring no tokens.
	jsonEnvelopeBytes, jsonBytesPerToken = 500, 4.0
	// Providers send about one token in an event of a stream, whose size is that of its envelope: ids, names, braces.
	openAIStreamBytes, openAIBytesPerToken       = 300, 272.0
	anthropicStreamBytes, anthropicBytesPerToken = 450, 119.0
)

// maxReserved is the most input, and the most output, that one request reserves: far more than any model takes, and little
// enough that the lease of a client who writes a larger number stays short.
const maxReserved = 1<<34 - 1

// amounts is what a request takes, or took.
type amounts struct{ input, output int64 }

func (a amounts) of(m policy.Metric) int64 {
	switch m {
	case policy.Requests, policy.ConcurrentRequests:
		return 1
	case policy.InputTokens:
		return a.input
	case policy.OutputTokens:
		return a.output
	case policy.Tokens:
		return a.input + a.output
	}
	return 0
}

// estimate is what a request reserves. The request of an opaque route is not looked into: it reserves no tokens and is
// charged what its response reports.
func (p *plan) estimate(r *descriptor.Reserve) amounts {
	if r.Protocol == descriptor.ProtocolOpaque {
		return amounts{}
	}
	a := amounts{input: int64(math.Ceil(float64(r.InputBytes) * inputTokensPerByte))}
	switch {
	case r.Protocol == descriptor.ProtocolOpenAIEmbeddings:
	case r.MaxOutput > 0:
		a.output = r.MaxOutput
	default:
		a.output = p.defaultOutput
	}
	return amounts{input: min(a.input, maxReserved), output: min(a.output, maxReserved)}
}

// A Spent is what a stream that has ended is charged in tokens.
type Spent struct {
	Input, Output int64
	// Set where the provider did not report the number, so that it was estimated.
	InputEstimated, OutputEstimated bool
}

// spent works out what a stream cost. The provider's final report is the truth. Of a stream that was cut, what the provider
// had reported so far holds, and the rest is estimated from what the client got. A response of 400 and above without a
// report costs nothing.
func spent(s *descriptor.Settle, l *lease) Spent {
	if u := s.Reported; u.Input > 0 || u.Output > 0 {
		return Spent{Input: u.Input, Output: u.Output}
	}
	if s.Code >= 400 || l.protocol == descriptor.ProtocolOpaque {
		return Spent{}
	}
	cost := Spent{Input: s.Partial.Input}
	if cost.Input == 0 {
		cost.Input, cost.InputEstimated = l.amounts.input, true
	}
	if l.protocol == descriptor.ProtocolOpenAIEmbeddings {
		return cost
	}
	// Anthropic reports 1 when a stream begins and the true number only when it ends.
	estimate := outputFromBytes(s.OutputBytes, l)
	cost.Output, cost.OutputEstimated = max(s.Partial.Output, estimate), s.Partial.Output == 0 || estimate > s.Partial.Output
	return cost
}

func outputFromBytes(n int64, l *lease) int64 {
	envelope, perToken := int64(jsonEnvelopeBytes), float64(jsonBytesPerToken)
	if l.stream {
		envelope, perToken = openAIStreamBytes, openAIBytesPerToken
		if l.protocol == descriptor.ProtocolAnthropic {
			envelope, perToken = anthropicStreamBytes, anthropicBytesPerToken
		}
	}
	return int64(math.Ceil(float64(max(0, n-envelope)) / perToken))
}

func (s Spent) amounts() amounts { return amounts{input: s.Input, output: s.Output} }
