package ratelimit

import (
	"unicode/utf8"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Codec lets a server take calls whose descriptors hold bytes that are not UTF-8, which clients can put into headers and
// Envoy sends as they are. A call that could not be read would look as if the service had failed, and whoever is let through
// then could make it fail at will.
func Codec() grpc.ServerOption { return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}) }

type codec struct{ encoding.CodecV2 }

// Unmarshal reads what is not UTF-8 as question marks, where the message could not be read otherwise.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	call, ok := v.(*rlsv3.RateLimitRequest)
	if err == nil || !ok {
		return err //nolint:wrapcheck // It is that of the codec in whose place this one stands.
	}
	mended := data.Materialize()
	mendCall(mended)
	return proto.Unmarshal(mended, call)
}

// Numbers of fields: descriptors of a call, entries of a descriptor, the value of an entry.
const (
	callDescriptors   = 2
	descriptorEntries = 1
	entryValue        = 2
)

func mendCall(call []byte) {
	eachField(call, callDescriptors, func(d []byte) {
		eachField(d, descriptorEntries, func(entry []byte) { eachField(entry, entryValue, mend) })
	})
}

// eachField visits every field of a number that holds bytes, for as long as the message is in order.
func eachField(message []byte, number protowire.Number, visit func(content []byte)) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return
		}
		message = message[size:]
		if n == number && kind == protowire.BytesType {
			if content, size := protowire.ConsumeBytes(message); size >= 0 {
				visit(content)
			}
		}
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			return
		}
		message = message[size:]
	}
}

// mend puts a question mark in the place of each byte that belongs to no character.
func mend(text []byte) {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			text[0] = '?'
		}
		text = text[size:]
	}
}
