package ratelimit

import (
	"strconv"
	"sync"

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
	if d.headers != nil {
		b = append(b, d.headers.fields...)
	}
	if d.Pool != "" {
		b = appendHeader(b, answerRequestHeaders, descriptor.HeaderPool, d.Pool)
	}
	switch {
	case d.Status != 0:
		b = appendHeader(b, answerResponseHeaders, "content-type", "application/json")
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

func appendHeader[V string | []byte](b []byte, n protowire.Number, name string, value V) []byte {
	b = appendLength(b, n, sizeText(name)+sizeField(len(value)))
	return appendText(appendText(b, headerName, name), headerValue, value)
}

// Headers are response headers, as the fields of an answer that they will be. Names are in the case in which the documents write
// them. Whoever has written the answer frees the headers.
type headers struct{ fields []byte }

// headerRoom is what the headers of most answers take.
const headerRoom = 512

var headersPool = sync.Pool{New: func() any { return &headers{make([]byte, 0, headerRoom)} }}

func newHeaders() *headers { return headersPool.Get().(*headers) } //nolint:forcetypeassert // The pool holds nothing else.

// free takes back the room; it may be called for nil.
func (h *headers) free() {
	if h != nil {
		h.fields = h.fields[:0]
		headersPool.Put(h)
	}
}

func (h *headers) add(name string, value []byte) {
	h.fields = appendHeader(h.fields, answerResponseHeaders, name, value)
}

func (h *headers) addText(name, value string) {
	h.fields = appendHeader(h.fields, answerResponseHeaders, name, value)
}

func (h *headers) addNumber(name string, value int64) {
	var room [20]byte
	h.add(name, strconv.AppendInt(room[:0], value, 10))
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

func appendText[V string | []byte](b []byte, n protowire.Number, value V) []byte {
	return append(appendLength(b, n, len(value)), value...)
}

// appendLength begins a field that holds so many bytes.
func appendLength(b []byte, n protowire.Number, size int) []byte {
	if size < oneByte { // so most are
		return append(b, byte(protowire.EncodeTag(n, protowire.BytesType)), byte(size)) //nolint:gosec // As sizeField says.
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.BytesType), uint64(size))
}

func sizeText(text string) int { return sizeField(len(text)) }

// sizeField is that of a field that holds so many bytes. No number of a field here takes more than one byte.
func sizeField(size int) int { return 1 + protowire.SizeBytes(size) }
