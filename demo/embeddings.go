package demo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
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
	Model          string         `json:"model"`
	Input          embeddingInput `json:"input"`
	Dimensions     *int           `json:"dimensions"`
	EncodingFormat string         `json:"encoding_format"`
}

// An embeddingInput is what to embed, each as its JSON, and what all of it costs.
type embeddingInput struct {
	items  []json.RawMessage
	tokens int
}

// UnmarshalJSON takes a text, a list of texts, a list of tokens or a list of such lists.
func (in *embeddingInput) UnmarshalJSON(data []byte) error {
	var list []json.RawMessage
	if json.Unmarshal(data, &list) != nil || len(list) > 0 && !bytes.ContainsAny(list[0][:1], `"[`) {
		list = []json.RawMessage{bytes.Clone(data)}
	}
	size, tokens := 0, 0
	for _, item := range list {
		var s string
		var ids []int
		switch {
		case item[0] == '"' && json.Unmarshal(item, &s) == nil:
			size += len(s)
		case item[0] == '[' && json.Unmarshal(item, &ids) == nil:
			tokens += len(ids)
		default:
			return badRequest("input", "input: must be a string, tokens, or a list of either")
		}
	}
	if size > 0 {
		tokens += inputTokens(size)
	}
	*in = embeddingInput{list, max(1, tokens)}
	return nil
}

func (q *embeddingRequest) check() error {
	switch {
	case q.Model == "":
		return badRequest("model", "model: you must provide a model parameter")
	case len(q.Input.items) == 0 || len(q.Input.items) > mostEmbeddings:
		return badRequest("input", "input: must be 1 to %d inputs", mostEmbeddings)
	case q.Dimensions != nil && (*q.Dimensions < 1 || *q.Dimensions > mostDimensions):
		return badRequest("dimensions", "dimensions: must be from 1 to %d", mostDimensions)
	}
	return nil
}

func embeddings(x *exchange, body []byte) error {
	var q embeddingRequest
	if err := decode(body, &q); err != nil {
		return err
	}
	if err := q.check(); err != nil {
		return err
	}
	x.understood(q.Model, false, q.Input.tokens)
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
	answer := fmt.Sprintf(`{"object":"list","data":[%s],"model":%s%s}`, strings.Join(data, ","), asJSON(q.Model), usage)
	return x.completion(answer, 0)
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
