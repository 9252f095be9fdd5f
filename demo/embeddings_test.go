package demo_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEmbeddings(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		input         string
		items, tokens int
	}{
		"a text":         {`"abcde"`, 1, 2},
		"texts":          {`["abcd","efgh","ij"]`, 3, 3},
		"an empty text":  {`""`, 1, 1},
		"tokens":         {`[1,2,3,4,5]`, 1, 5},
		"lists of them":  {`[[1,2,3],[4]]`, 2, 4},
		"a single token": {`[17]`, 1, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := parse(t, f.post(t, "/v1/embeddings", `{"model":"e","dimensions":2,"input":`+tc.input+`}`).body)
			data := a["data"].([]any)
			if len(data) != tc.items {
				t.Errorf("%d embeddings, want %d", len(data), tc.items)
			}
			for i, d := range data {
				d := d.(map[string]any)
				if d["object"] != "embedding" || d["index"] != float64(i) || len(d["embedding"].([]any)) != 2 {
					t.Errorf("embedding %d is %v", i, d)
				}
			}
			delete(a, "data")
			want := map[string]any{"object": "list", "model": "e", "usage": map[string]any{
				"prompt_tokens": float64(tc.tokens), "total_tokens": float64(tc.tokens),
			}}
			if diff := cmp.Diff(want, a); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if r := f.only(t); r.InputTokens != tc.tokens || r.OutputTokens != 0 {
				t.Errorf("remembered %d and %d, want %d and 0", r.InputTokens, r.OutputTokens, tc.tokens)
			}
		})
	}
}

func TestEmbeddingsInBase64(t *testing.T) {
	t.Parallel()
	f := start(t)
	embed := func(format string) any {
		body := fmt.Sprintf(`{"model":"e","input":"abcd","encoding_format":%q}`, format)
		return parse(t, f.post(t, "/v1/embeddings", body, "x-demo-usage: none").body)["data"].([]any)[0].(map[string]any)["embedding"]
	}
	raw, err := base64.StdEncoding.DecodeString(embed("base64").(string))
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for ; len(raw) > 0; raw = raw[4:] {
		got = append(got, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))))
	}
	if diff := cmp.Diff(embed("float"), any(got)); diff != "" {
		t.Errorf("the two forms differ (-float +base64):\n%s", diff)
	}
}
