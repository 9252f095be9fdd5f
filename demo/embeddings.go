package demo

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

const (
	mostEmbeddings    = 2048 // OpenAI's API reference
	mostDimensions    = 3072
	defaultDimensions = 16
)

type embeddingRequest struct {
	Model          string   `json:"model"`
	Input          textList `json:"input"`
	Dimensions     *int     `json:"dimensions"`
	EncodingFormat string   `json:"encoding_format"`
}

func (q *embeddingRequest) check() error {
	switch {
	case q.Model == "":
		return errNoModel
	case len(q.Input.items) == 0 || len(q.Input.items) > mostEmbeddings:
		return badRequest("input", "input: must be a string, tokens, or a list of either, of at most %d", mostEmbeddings)
	case q.Dimensions != nil && (*q.Dimensions < 1 || *q.Dimensions > mostDimensions):
		return badRequest("dimensions", "dimensions: must be from 1 to %d", mostDimensions)
	}
	return nil
}

func embeddings(x *exchange) error {
	var q embeddingRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	if err := q.check(); err != nil {
		return err
	}
	x.understood(q.Model, false, cost{input: q.Input.tokens})
	dimensions := defaultDimensions
	if q.Dimensions != nil {
		dimensions = *q.Dimensions
	}
	data := make([]string, len(q.Input.items))
	for i, item := range q.Input.items {
		v := vector(item, dimensions)
		written := asJSON(v)
		if q.EncodingFormat == "base64" {
			written = asJSON(packed(v))
		}
		data[i] = fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":%s}`, i, written)
	}
	usage := ""
	if !x.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"prompt_tokens":%d,"total_tokens":%[1]d}`, q.Input.tokens)
	}
	return x.json(fmt.Sprintf(`{"object":"list","data":[%s],"model":%s%s}`, strings.Join(data, ","), asJSON(q.Model), usage))
}

// vector gives equal seeds equal vectors, of length 1.
func vector(seed []byte, dimensions int) []float32 {
	digest := sha256.Sum256(seed)
	v := make([]float32, dimensions)
	for i := range v {
		v[i] = float32(1 / math.Sqrt(float64(dimensions)))
		if digest[i/8%len(digest)]>>(i%8)&1 == 0 {
			v[i] = -v[i]
		}
	}
	return v
}

// packed is a vector as little-endian bytes, which JSON turns into the base64 that official clients ask for.
func packed(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return b
}
