package ratelimit

import (
	"context"
	"encoding/base64"
	"slices"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// KeyOf lets tests look at a counter in the store.
var KeyOf = keyOf

// StepBack is how far a clock may go back unnoticed.
const StepBack = stepBack

// WindowOf tells them what it counts in.
var WindowOf = windowOf

// BidKeys are the counters by which replicas tell each other who waits, by rank.
func BidKeys(group string) []counter.Key {
	keys := bidKeys(group)
	return keys[:]
}

// BidExpiry is for how long a replica is believed that has died.
const BidExpiry = bidExpiry

// MaxReserved is the most input, and the most output, that one request reserves.
const MaxReserved = maxReserved

// MaxBytes is the largest body that a lease tells of.
const MaxBytes = maxBytes

// StreamWorkers is how many calls at once are answered without a goroutine of their own.
const StreamWorkers = streamWorkers

// A Lease is what a sealed lease holds.
type Lease struct {
	ID            counter.LeaseID
	Taken         time.Time
	Protocol      descriptor.Protocol
	Stream        bool
	Model         uint32
	CachedPercent int64
	InputBytes    int64
	Input, Output int64
	Subject       counter.Subject
	Charges       []Charge
}

// A Charge is what a lease says of one counter.
type Charge struct {
	Key     counter.Key
	Metric  policy.Metric
	Window  counter.Window
	Charged int64
}

// A Sealer makes and reads leases as a Limiter of the secret does.
type Sealer struct{ leases *leases }

// Unmarshal reads a RateLimitRequest as a server does: the entries of each descriptor. The parts are one message.
func Unmarshal(parts ...[]byte) (descriptors [][]descriptor.Entry, err error) {
	var data mem.BufferSlice
	for _, part := range parts {
		data = append(data, mem.SliceBuffer(part))
	}
	c := &call{entries: []descriptor.Entry{{Key: "of the call before", Value: "the same"}}, ends: []int{1}}
	if err := (codec{}).Unmarshal(data, c); err != nil {
		return nil, err
	}
	start := 0
	for _, end := range c.ends {
		descriptors = append(descriptors, c.entries[start:end])
		start = end
	}
	return descriptors, nil
}

// Leftover takes a call as a server does, and returns what is left of it in the room that the next call gets.
func Leftover(b []byte) (entries []descriptor.Entry, credentials []descriptor.Credential, err error) {
	c := &call{}
	if err := c.read(b); err != nil {
		return nil, nil, err
	}
	descriptor.DecodeReserve(c.entries, &c.reserve)
	c.forget()
	return c.entries[:cap(c.entries)], c.reserve.Credentials[:cap(c.reserve.Credentials)], nil
}

// A Header is a response header.
type Header struct{ Name, Value string }

// Headers are what the client is told.
func (d Decision) Headers() []Header {
	if d.headers == nil {
		return nil
	}
	return d.headers.list()
}

// AddHeader adds one.
func (d *Decision) AddHeader(name, value string) {
	if d.headers == nil {
		d.headers = newHeaders()
	}
	d.headers.addText(name, value)
}

// list reads what add writes.
func (h *headers) list() (out []Header) {
	var answer rlsv3.RateLimitResponse
	if err := proto.Unmarshal(h.fields, &answer); err != nil {
		panic(err)
	}
	for _, told := range answer.GetResponseHeadersToAdd() {
		out = append(out, Header{told.GetKey(), told.GetValue()})
	}
	return out
}

// Marshal writes a RateLimitResponse as a server does, to a call of so many descriptors.
func Marshal(d Decision, descriptors int) []byte { return appendAnswer(nil, &d, descriptors) }

// NewSealer makes a Sealer.
func NewSealer(secret []byte) *Sealer { return &Sealer{newLeases(secret)} }

// Seal writes a lease as Reserve does.
func (s *Sealer) Seal(l Lease) string {
	p := &plan{shape: &shape{kind: &kind{ratio: &ratio{id: modelID(l.Model)}}, cachedPercent: l.CachedPercent}}
	t := &taken{amounts: amounts{l.Input, l.Output}}
	for i, c := range l.Charges {
		p.rules = append(p.rules, rule{metric: c.Metric, window: c.Window})
		p.keys = append(p.keys, c.Key)
		t.hits[i] = c.Charged
	}
	t.charged = len(p.keys)
	return s.leases.seal(p, l.Subject, l.ID, l.Taken, &descriptor.Reserve{Protocol: l.Protocol, Stream: l.Stream, InputBytes: l.InputBytes}, t)
}

// Open reads a lease as Settle does.
func (s *Sealer) Open(sealed string) (Lease, error) {
	var in lease
	if err := s.leases.open(sealed, &in); err != nil {
		return Lease{}, err
	}
	out := Lease{
		ID: in.id, Taken: in.taken, Protocol: in.protocol, Stream: in.stream, Input: in.amounts.input, Output: in.amounts.output,
		Model: uint32(in.model), CachedPercent: in.cachedPercent, InputBytes: in.inputBytes, Subject: in.subject,
	}
	for i, c := range in.charges {
		out.Charges = append(out.Charges, Charge{c.Key, in.metrics[i], c.Window, c.Charged})
	}
	return out, nil
}

// Sign makes a lease of any content, whose signature is in order.
func (s *Sealer) Sign(content []byte) string {
	signer := s.leases.signers.Get().(*signer) //nolint:forcetypeassert // The pool holds nothing else.
	defer s.leases.signers.Put(signer)
	return base64.RawURLEncoding.EncodeToString(append(slices.Clip(content), signer.sign(content)...))
}

// A Handler takes calls as a server does. It is for one goroutine.
type Handler struct {
	call   []byte
	answer []byte
	read   func(any) error
}

// NewHandler makes a Handler.
func NewHandler() *Handler {
	h := &Handler{}
	h.read = func(c any) error { return c.(*call).read(h.call) } //nolint:forcetypeassert // The server reads nothing else.
	return h
}

// Answer takes the call. The answer is good until the next.
func (h *Handler) Answer(ctx context.Context, l *Limiter, call []byte) ([]byte, error) {
	h.call = call
	answer, err := (&server{limiter: l, log: l.log}).shouldRateLimit(ctx, h.read)
	if err != nil {
		return nil, err
	}
	b := answer.(mem.Buffer) //nolint:forcetypeassert // As above.
	defer b.Free()
	h.answer = append(h.answer[:0], b.ReadOnlyData()...)
	return h.answer, nil
}

// A Decider is the part of Reserve that decides: it finds the plan of a request and charges it.
type Decider struct {
	limiter *Limiter
	taken   taken
}

// NewDecider is for one goroutine.
func NewDecider(l *Limiter) *Decider { return &Decider{limiter: l} }

// Decide charges a request with a key of the credential, and reports whether it fits.
func (d *Decider) Decide(ctx context.Context, c *policy.Credential, key policy.Digest, r *descriptor.Reserve) (bool, error) {
	e := d.limiter.epoch.Load()
	g, _ := e.table.Gateway(r.Gateway)
	p := e.plan(e.kind(g, r.Model, r.Resource), &caller{holder: c.Holder, credential: c, key: key})
	p.ask(r, &d.taken)
	ok, err := d.limiter.enter(ctx, d.limiter.clock(), d.limiter.leases.next(), p, &d.taken)
	d.limiter.activity.note(p)
	return ok, err
}
