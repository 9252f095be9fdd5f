package ratelimit

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// streamWorkers save grpc-go the growing of a stack for each call. Where more calls are under way, because many wait for capacity,
// the others grow their own; more workers than are busy cost as much again, because they take turns and their stacks are cold.
const streamWorkers = 64

// The windows of flow control, in bytes, hold any call, and many of them. Where they are not fixed, grpc-go sends a ping with nearly every
// call to find out how large they ought to be.
const (
	streamWindow     = 1 << 17
	connectionWindow = 1 << 20
)

// ServerOptions are for the grpc.Server that Register is given, which cannot do without them. The server may have other services.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
	}
}

// codec reads and writes the messages of the rate limit protocol, for which generated code takes more CPU than all decisions
// do. It leaves all others to the codec in whose place it stands.
type codec struct{ encoding.CodecV2 }

// Marshal passes on answers, which are written by whoever gives them.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if answer, ok := v.(mem.Buffer); ok {
		return mem.BufferSlice{answer}, nil
	}
	return c.CodecV2.Marshal(v) //nolint:wrapcheck // It is that of the codec in whose place this one stands.
}

// Unmarshal reads calls.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	call, ok := v.(*call)
	if !ok {
		return c.CodecV2.Unmarshal(data, v) //nolint:wrapcheck // As in Marshal.
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return call.read(b.ReadOnlyData())
}

// A call is a RateLimitRequest: the entries of its descriptors.
type call struct {
	entries []descriptor.Entry
	ends    []int // of each descriptor, among the entries
	reserve descriptor.Reserve
}

// Numbers of fields: descriptors of a call, entries of a descriptor, key and value of an entry.
const (
	callDescriptors   = 2
	descriptorEntries = 1
	entryKey          = 1
	entryValue        = 2
)

// read takes a message apart. Fields that nobody needs are skipped.
func (c *call) read(b []byte) error {
	c.forget()
	m := message{b, string(b)} // Grpc-go takes back what it gives.
	for len(m.b) > 0 {
		n, field, err := m.next()
		if err == nil && n == callDescriptors {
			err = c.readDescriptor(field)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *call) readDescriptor(m message) error {
	for len(m.b) > 0 {
		n, field, err := m.next()
		if err == nil && n == descriptorEntries {
			err = c.readEntry(field)
		}
		if err != nil {
			return err
		}
	}
	c.ends = append(c.ends, len(c.entries))
	return nil
}

// readEntry takes values that are not UTF-8, which clients can put into headers and Envoy sends as they are, and puts question
// marks for what belongs to no character. A call that could not be read would look as if the service had failed, and whoever is
// let through then could make it fail at will.
func (c *call) readEntry(m message) error {
	var e descriptor.Entry
	for len(m.b) > 0 {
		n, field, err := m.next()
		if err != nil {
			return err
		}
		if n == entryKey {
			e.Key = field.text
		}
		if n == entryValue {
			e.Value = field.text
		}
	}
	if !utf8.ValidString(e.Value) { // It is looked at first, because that is done in words.
		e.Value = strings.ToValidUTF8(e.Value, "?")
	}
	c.entries = append(c.entries, e)
	return nil
}

// maxRoom is for how many entries, and descriptors, a call keeps room when it is used again: several times what Envoy sends.
const maxRoom = 256

// forget drops what the call brought, so that no API key outlives it.
func (c *call) forget() {
	if max(cap(c.entries), cap(c.ends)) > maxRoom {
		*c = call{}
		return
	}
	clear(c.entries)
	clear(c.reserve.Credentials[:cap(c.reserve.Credentials)])
	*c = call{entries: c.entries[:0], ends: c.ends[:0], reserve: descriptor.Reserve{Credentials: c.reserve.Credentials[:0]}}
}

// A message is a protocol buffer and the same as text, of which what is read from it is a part.
type message struct {
	b    []byte
	text string
}

// next cuts off the first field, and yields what it holds. The number of one that holds no bytes is 0, which none has.
func (m *message) next() (n protowire.Number, field message, err error) {
	// Most fields have a byte for their number and kind, and one for their length.
	if len(m.b) > 1 && m.b[0] < oneByte && m.b[1] < oneByte {
		n, kind := protowire.DecodeTag(uint64(m.b[0]))
		if end := 2 + int(m.b[1]); kind == protowire.BytesType && n >= protowire.MinValidNumber && end <= len(m.b) {
			field = message{m.b[2:end], m.text[2:end]}
			*m = message{m.b[end:], m.text[end:]}
			return n, field, nil
		}
	}
	return m.nextOfAny()
}

// oneByte is the least number that takes more than one.
const oneByte = 0x80

// nextOfAny is next for every field.
func (m *message) nextOfAny() (n protowire.Number, field message, err error) {
	n, kind, tag := protowire.ConsumeTag(m.b)
	if tag < 0 {
		return 0, message{}, protowire.ParseError(tag)
	}
	var size int
	if kind == protowire.BytesType {
		field.b, size = protowire.ConsumeBytes(m.b[tag:])
	} else {
		size = protowire.ConsumeFieldValue(n, kind, m.b[tag:])
		n = 0
	}
	if size < 0 {
		return 0, message{}, protowire.ParseError(size)
	}
	end := tag + size
	field.text = m.text[end-len(field.b) : end]
	*m = message{m.b[end:], m.text[end:]}
	return n, field, nil
}
