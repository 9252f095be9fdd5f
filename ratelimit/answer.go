package ratelimit

import (
	"strconv"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Numbers of fields: of an answer, of the status of a descriptor, of a header, and of a Struct, an entry and a value of one.
const (
	answerCode            = 1
	answerStatuses        = 2
	answerResponseHeaders = 3
	answerRequestHeaders  = 4
	answerBody            = 5
	answerMetadata        = 6
	statusCode            = 1
	headerName            = 1
	headerValue           = 2
	structFields          = 1
	fieldKey              = 1
	fieldValue            = 2
	valueString           = 3
)

// answerRoom is more than most answers take.
const answerRoom = 4096

// appendAnswer writes the RateLimitResponse to a call of so many descriptors. The zero Decision is the answer to settles.
func appendAnswer(b []byte, d *Decision, descriptors int) []byte {
	code := rlsv3.RateLimitResponse_OK
	if d.Status != 0 {
		code = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	b = appendCode(b, answerCode, code)
	for range descriptors {
		b = appendLength(b, answerStatuses, sizeCode)
		b = appendCode(b, statusCode, code)
	}
	for _, h := range d.Headers {
		b = appendHeader(b, answerResponseHeaders, h)
	}
	if d.Pool != "" {
		b = appendHeader(b, answerRequestHeaders, Header{descriptor.HeaderPool, d.Pool})
	}
	switch {
	case d.Status != 0:
		b = appendHeader(b, answerResponseHeaders, Header{"content-type", "application/json"})
		b = appendText(b, answerBody, d.Body)
		return appendMetadata(b, descriptor.MetadataDenyStatus, strconv.Itoa(d.Status))
	case d.Lease != "":
		return appendMetadata(b, descriptor.KeyLease, d.Lease)
	}
	return b // Nothing is counted, so nothing is to be settled.
}

// sizeCode is that of what appendCode writes.
const sizeCode = 2

func appendCode(b []byte, n protowire.Number, code rlsv3.RateLimitResponse_Code) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(code)) //nolint:gosec // Not negative.
}

func appendHeader(b []byte, n protowire.Number, h Header) []byte {
	b = appendLength(b, n, sizeText(h.Name)+sizeText(h.Value))
	return appendText(appendText(b, headerName, h.Name), headerValue, h.Value)
}

// appendMetadata writes a Struct with one field, which holds text.
func appendMetadata(b []byte, key, value string) []byte {
	field := sizeText(key) + sizeField(sizeText(value))
	b = appendLength(b, answerMetadata, sizeField(field))
	b = appendLength(b, structFields, field)
	b = appendText(b, fieldKey, key)
	b = appendLength(b, fieldValue, sizeText(value))
	return appendText(b, valueString, value)
}

func appendText(b []byte, n protowire.Number, text string) []byte {
	return append(appendLength(b, n, len(text)), text...)
}

// appendLength begins a field that holds so many bytes.
func appendLength(b []byte, n protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.BytesType), uint64(size)) //nolint:gosec // Not negative.
}

func sizeText(text string) int { return sizeField(len(text)) }

// sizeField is that of a field that holds so many bytes. No number of a field here takes more than one byte.
func sizeField(size int) int { return 1 + protowire.SizeBytes(size) }
