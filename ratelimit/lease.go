package ratelimit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A lease is the receipt of a request: what it was charged, against which counters and when. Envoy keeps it with the
// request and sends it back when the stream has ended, so that any replica can settle it without looking anything up. It
// is signed, because it comes back over a network.
//
// Its form is a version byte, the id, the time in milliseconds, the protocol, whether a stream was asked for, the model, how
// its cached tokens count, the bytes of the body, the reserved input and output, the kind of whom a failure is counted
// against and, if it is somebody, the gateway and the id, then for each counter its key, what it counts and the charge, and at
// the end 16 bytes of HMAC-SHA256; base64url without padding. Numbers are varints. With 32 counters it stays within 1 KiB.
type lease struct {
	id            counter.LeaseID
	taken         time.Time
	protocol      descriptor.Protocol
	stream        bool
	model         modelID
	cachedPercent int64
	inputBytes    int64
	amounts       amounts
	subject       counter.Subject              // whom a failure is counted against
	charges       []counter.Charge             // without what was used
	metrics       [math.MaxUint8]policy.Metric // of charges, as many as a byte can number
}

const (
	leaseVersion = 3
	macSize      = 16
	maxBytes     = 1<<34 - 1 // of a body: more than any gateway takes
	maxLease     = 4096      // no lease of ours is longer, so a longer one need not be decoded
)

// The places in the list stand in leases: it may only grow.
var protocolCodes = [...]descriptor.Protocol{
	descriptor.ProtocolOpaque, descriptor.ProtocolOpenAIChat, descriptor.ProtocolOpenAIEmbeddings, descriptor.ProtocolAnthropic,
	descriptor.ProtocolJSON, descriptor.ProtocolOpenAICompletions, descriptor.ProtocolOpenAIResponses, descriptor.ProtocolOpenAIImages,
	descriptor.ProtocolOpenAITranscriptions, descriptor.ProtocolGemini,
}

// leases makes and reads leases. It is safe for concurrent use.
type leases struct {
	signers sync.Pool
	former  []byte // a secret that verifies and does not sign; nil: none
	last    atomic.Uint64
	ledger  *ledger
}

// A signer is what one goroutine needs to sign a lease.
type signer struct {
	mac hash.Hash
	sum [sha256.Size]byte
	buf [1024]byte // a lease before it is encoded

	encoded []byte // room for it after that
}

func newSigner(secret []byte) *signer { return &signer{mac: hmac.New(sha256.New, secret)} }

func newLeases(secret []byte) *leases {
	l := &leases{signers: sync.Pool{New: func() any { return newSigner(secret) }}}
	// Replicas and restarts start from places of their own, so that no two requests share an id.
	var start [8]byte
	_, _ = rand.Read(start[:])
	l.last.Store(binary.NativeEndian.Uint64(start[:]))
	l.ledger = newLedger(l.last.Load())
	return l
}

func (l *leases) next() (id counter.LeaseID) {
	binary.BigEndian.PutUint64(id[:], l.last.Add(1))
	return id
}

func (l *leases) seal(p *plan, subject counter.Subject, id counter.LeaseID, now time.Time, r *descriptor.Reserve, t *taken) string {
	s := l.signers.Get().(*signer) //nolint:forcetypeassert // The pool holds nothing else.
	defer l.signers.Put(s)
	b := append(s.buf[:0], leaseVersion)
	b = append(b, id[:]...)
	b = binary.AppendUvarint(b, uint64(max(now.UnixMilli(), 0)))
	b = append(b, codeOf(r.Protocol), boolByte(r.Stream))
	b = binary.BigEndian.AppendUint32(b, uint32(p.ratio.id))
	b = append(b, byte(p.cachedPercent))                             //nolint:gosec // At most 100.
	b = binary.AppendUvarint(b, uint64(min(r.InputBytes, maxBytes))) //nolint:gosec // Not negative.
	b = binary.AppendUvarint(b, uint64(t.amounts.input))             //nolint:gosec // Not negative.
	b = binary.AppendUvarint(b, uint64(t.amounts.output))            //nolint:gosec // Not negative.
	b = appendSubject(b, subject)
	at := len(b)
	b = append(b, 0) // the number of counters
	for i := range p.keys[:t.charged] {
		rule := &p.rules[i]
		if rule.window == counter.InUse && t.hits[i] == 0 {
			continue // A slot that was not taken must not be renewed.
		}
		b[at]++
		b = append(b, p.keys[i][:]...)
		b = append(b, byte(rule.metric)<<4|byte(rule.window))
		b = binary.AppendUvarint(b, uint64(t.hits[i])) //nolint:gosec // Not negative.
	}
	l.ledger.opened(id, now)
	s.encoded = base64.RawURLEncoding.AppendEncode(s.encoded[:0], append(b, s.sign(b)...))
	return string(s.encoded)
}

// appendSubject writes the kind first: where it is nobody's there is nothing more.
func appendSubject(b []byte, s counter.Subject) []byte {
	b = append(b, kindOf(s))
	if kindOf(s) == subjectOfNone {
		return b
	}
	gateway, id := gatewayOf(s), idIn(s)
	return append(append(b, gateway[:]...), id[:]...)
}

// subject reads what appendSubject writes.
func (r *reader) subject() counter.Subject {
	kind := r.byte()
	if kind == subjectOfNone {
		return counter.Subject{}
	}
	r.failed = r.failed || kind > subjectClient
	return newSubject(gatewayID(r.bytes(gatewayIDSize)), kind, [16]byte(r.bytes(16)))
}

// sign returns the signature of content, which is good until the next call.
func (s *signer) sign(content []byte) []byte {
	s.mac.Reset()
	s.mac.Write(content)
	return s.mac.Sum(s.sum[:0])[:macSize]
}

// signed reports whether mac is the signature of content.
func (l *leases) signed(s *signer, content, mac []byte) bool {
	return hmac.Equal(mac, s.sign(content)) || l.former != nil && hmac.Equal(mac, newSigner(l.former).sign(content))
}

// open reads into out a lease that seal wrote.
func (l *leases) open(s string, out *lease) error {
	if len(s) > maxLease {
		return &misuseError{malformedLease, fmt.Sprintf("has %d bytes, which are too many", len(s))}
	}
	if s == "" {
		return &misuseError{noLease, "is missing"}
	}
	signer := l.signers.Get().(*signer) //nolint:forcetypeassert // The pool holds nothing else.
	defer l.signers.Put(signer)
	b, err := base64.RawURLEncoding.AppendDecode(signer.buf[:0], []byte(s))
	if err != nil || len(b) <= macSize {
		return &misuseError{malformedLease, "is not in its form"}
	}
	content, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if !l.signed(signer, content, mac) {
		return &misuseError{forgedLease, "is truncated, or signed by nobody who shares the secret of this service"}
	}
	if content[0] != leaseVersion {
		return &misuseError{unknownVersion, fmt.Sprintf("has the version %d, which this release does not know", content[0])}
	}
	r := reader{b: content[1:]}
	copy(out.id[:], r.bytes(len(out.id)))
	out.taken = time.UnixMilli(r.number())
	out.protocol, out.stream = protocolOf(r.byte()), r.byte() == 1
	out.model = modelID(binary.BigEndian.Uint32(r.bytes(4)))
	out.cachedPercent, out.inputBytes = int64(r.byte()), r.number()
	out.amounts = amounts{input: r.number(), output: r.number()}
	out.subject = r.subject()
	out.charges = make([]counter.Charge, r.byte())
	for i := range out.charges {
		c := &out.charges[i]
		copy(c.Key[:], r.bytes(len(c.Key)))
		kind := r.byte()
		out.metrics[i], c.Window, c.Charged = policy.Metric(kind>>4), counter.Window(kind&0xf), r.number()
	}
	if r.failed || len(r.b) != 0 {
		return &misuseError{malformedLease, "is not in its form"}
	}
	return nil
}

// reader takes a lease apart. Once something is missing it yields zeros and failed is set.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if len(r.b) < n {
		r.b, r.failed = nil, true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte { return r.bytes(1)[0] }

func (r *reader) number() int64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > math.MaxInt64 {
		r.b, r.failed = nil, true
		return 0
	}
	r.b = r.b[size:]
	return int64(n)
}

func codeOf(p descriptor.Protocol) byte {
	for i, known := range protocolCodes {
		if p == known {
			return byte(i)
		}
	}
	return 0
}

func protocolOf(code byte) descriptor.Protocol {
	if int(code) < len(protocolCodes) {
		return protocolCodes[code]
	}
	return descriptor.ProtocolOpaque
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
