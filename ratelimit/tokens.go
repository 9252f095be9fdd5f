package ratelimit

import (
	"math"
	"strings"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A form is what is known of the bodies of a protocol, where nobody reports tokens.
type form struct {
	// unread: the request is not looked into, so it reserves nothing and may name no model.
	unread bool
	// makes is what the response consists of.
	makes product
	// around is the bytes around the text of an answer that is one JSON object.
	around float64
	// Of a stream, envelope bytes come before the first token and perToken bytes with each. Providers send about one token in
	// an event, whose size is that of its envelope: ids, names, braces.
	envelope, perToken float64
	// begins: the first report of a stream says that there is output before there is any.
	begins bool
	// later: a JSON answer without a report is one to an order, of which nobody here sees what it brings.
	later bool
}

// A product is what a response consists of.
type product uint8

const (
	nothing product = iota // that counts as output
	text
	images
)

// The bytes were measured on streams of the shape that the providers document.
var forms = map[descriptor.Protocol]form{
	descriptor.ProtocolOpaque:               {unread: true},
	descriptor.ProtocolJSON:                 {makes: text, around: 200, envelope: 300, perToken: 272},
	descriptor.ProtocolOpenAIChat:           {makes: text, around: 310, envelope: 300, perToken: 272},
	descriptor.ProtocolOpenAICompletions:    {makes: text, around: 190, envelope: 0, perToken: 202},
	descriptor.ProtocolOpenAIResponses:      {makes: text, around: 690, envelope: 1800, perToken: 215, later: true},
	descriptor.ProtocolOpenAIEmbeddings:     {},
	descriptor.ProtocolOpenAIImages:         {makes: images},
	descriptor.ProtocolOpenAITranscriptions: {unread: true, makes: text, around: 10, envelope: 0, perToken: 59},
	descriptor.ProtocolAnthropic:            {makes: text, around: 190, envelope: 450, perToken: 119, begins: true},
	descriptor.ProtocolGemini:               {makes: text, around: 180, envelope: 0, perToken: 310},
}

// bytesPerToken is that of text.
const bytesPerToken = 4.0

// maxReserved is the most input, and the most output, that one request reserves: far more than any model takes, and little
// enough that the lease of a client who writes a larger number stays short.
const maxReserved = 1<<27 - 1

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

// estimate is what a request reserves: by the model's ratio for its bytes, and its own maximum of output, else the model's.
func (p *plan) estimate(r *descriptor.Reserve) amounts {
	f := forms[r.Protocol]
	if f.unread {
		return amounts{} // It is charged what its response reports.
	}
	a := amounts{input: p.ratio.inputTokens(r.InputBytes)}
	switch {
	case f.makes == nothing:
	case f.makes == images:
		a.output = p.defaultImage
	case r.MaxOutput > 0:
		a.output = r.MaxOutput
	default:
		a.output = p.defaultOutput
	}
	return amounts{input: min(a.input, maxReserved), output: min(a.output, maxReserved)}
}

// A Spent is what a stream that has ended took in tokens. Cached tokens are part of the input.
type Spent struct {
	Input, Cached, Output int64
	// Set where the provider did not report the number, so that it was estimated.
	InputEstimated, OutputEstimated bool
	// Kept: no less than what was reserved stays charged, because nobody can tell what the request will yet bring out.
	Kept bool
}

// spent works out what a stream cost. The provider's final report is the truth. Of a stream that was cut, what the provider
// had reported so far holds, and the rest is estimated from what the client got. A response of 400 and above without a
// report costs nothing. A picture costs what its ModelLimit says, or nothing. OpenAI's Responses report at once, or else were ordered in the background: they keep what they reserved.
func spent(s *descriptor.Settle, l *lease, r *ratio) Spent {
	if u := s.Reported; u.Input > 0 || u.Output > 0 {
		return Spent{Input: u.Input, Cached: u.Cached, Output: u.Output}
	}
	if s.Code >= 400 || l.protocol == descriptor.ProtocolOpaque {
		return Spent{}
	}
	f := forms[l.protocol]
	cost := Spent{Input: s.Partial.Input, Cached: s.Partial.Cached, Output: s.Partial.Output}
	if cost.Input == 0 && !f.unread {
		cost.Input, cost.InputEstimated = l.amounts.input, true
	}
	if f.makes == images && cost.Output == 0 && s.OutputBytes > 0 {
		cost.Output, cost.OutputEstimated = l.amounts.output, true
	}
	if f.makes != text || cost.Output > 0 && !f.begins {
		return cost
	}
	cost.Kept = f.later && s.OutputBytes > 0 && !l.streamed(s)
	if estimate := outputOf(s, l, r); cost.Output == 0 || estimate > cost.Output {
		cost.Output, cost.OutputEstimated = estimate, true
	}
	return cost
}

// outputOf estimates the tokens of a response by its bytes and its content type. Text is at least one. A client may have a
// say in the type, as Google's $alt=proto: where text was asked for, no type makes it anything else.
func outputOf(s *descriptor.Settle, l *lease, r *ratio) int64 {
	around := forms[l.protocol].around
	switch kind := strings.ToLower(s.ResponseType); {
	case s.OutputBytes == 0:
		return 0
	case l.streamed(s):
		return max(1, r.outputTokens(l.protocol, s.OutputBytes))
	case kind == "" || strings.Contains(kind, "json"):
	case l.protocol == descriptor.ProtocolJSON && !strings.HasPrefix(kind, "text/"):
		return 0 // sound, or a picture
	default:
		around = 0
	}
	return max(1, int64(math.Ceil((float64(s.OutputBytes)-around)/bytesPerToken)))
}

// streamed reports whether the response came in events. What the client asked for is no proof of that, and decides only where
// the response has no content type; a stream of Gemini may be one JSON array.
func (l *lease) streamed(s *descriptor.Settle) bool {
	return strings.HasPrefix(strings.ToLower(s.ResponseType), "text/event-stream") ||
		l.stream && (s.ResponseType == "" || l.protocol == descriptor.ProtocolGemini)
}

// amounts is what counts against limits: a cached token by so many percent of another.
func (s Spent) amounts(cachedPercent int64) amounts {
	cached := min(s.Cached, s.Input)
	return amounts{input: s.Input - cached + (cached*cachedPercent+99)/100, output: s.Output}
}
