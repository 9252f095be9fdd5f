package demo_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"image/png"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	imagesPath = "/v1/images/generations"
	editsPath  = "/v1/images/edits"
)

func TestImagesComeAsManyAsAskedForAndAtTheirCost(t *testing.T) {
	t.Parallel()
	usage := func(text, images, output float64) map[string]any {
		return map[string]any{
			"input_tokens": text + images, "output_tokens": output, "total_tokens": text + images + output,
			"input_tokens_details": map[string]any{"text_tokens": text, "image_tokens": images},
		}
	}
	form := func(size int, texts ...string) [2]string {
		body, contentType := formOf(t, "image", size, texts...)
		return [2]string{body, contentType}
	}
	tell := func(body string) [2]string { return [2]string{body, "Content-Type: application/json"} }
	cases := map[string]struct {
		path          string
		sent          [2]string
		images        int
		usage         map[string]any
		model         string
		input, output int
	}{
		"one":            {imagesPath, tell(`{"model":"gpt-image-1","prompt":"a red fox"}`), 1, usage(3, 0, 20), "gpt-image-1", 3, 20},
		"several":        {imagesPath, tell(`{"model":"gpt-image-1","prompt":"a red fox","n":3}`), 3, usage(3, 0, 60), "gpt-image-1", 3, 60},
		"without tokens": {imagesPath, tell(`{"model":"dall-e-3","prompt":"a red fox"}`), 1, map[string]any{}, "dall-e-3", 3, 0},
		"no model":       {imagesPath, tell(`{"prompt":"a red fox","n":2}`), 2, map[string]any{}, "dall-e-2", 3, 0},
		"edited":         {editsPath, form(5000, "model: gpt-image-1", "prompt: a red fox", "n: 2"), 2, usage(3, 64, 40), "gpt-image-1", 67, 40},
		"varied":         {"/v1/images/variations", form(5000, "n: 2"), 2, map[string]any{}, "dall-e-2", 64, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, tc.path, tc.sent[0], tc.sent[1], "x-demo-tokens: 20", "x-demo-cached: 9", "x-demo-reasoning: 9")
			if diff := cmp.Diff(tc.usage, reported(t, a)); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
			var got struct {
				Created int64
				Data    []struct {
					B64JSON []byte `json:"b64_json"`
				}
			}
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Data) != tc.images || got.Created != someDay.Unix() {
				t.Errorf("%d images at %d, want %d", len(got.Data), got.Created, tc.images)
			}
			for _, d := range got.Data {
				if _, err := png.Decode(bytes.NewReader(d.B64JSON)); err != nil {
					t.Errorf("an image that is none: %v", err)
				}
			}
			if r := f.only(t); r.Model != tc.model || r.InputTokens != tc.input || r.OutputTokens != tc.output || r.CachedTokens != 0 {
				t.Errorf("remembered %s with %d and %d tokens, %d cached", r.Model, r.InputTokens, r.OutputTokens, r.CachedTokens)
			}
		})
	}
}

func TestImageOnTheWire(t *testing.T) {
	t.Parallel()
	a := start(t).post(t, imagesPath, `{"model":"gpt-image-1","prompt":"a red fox","size":"1536x1024"}`)
	_, rest, _ := strings.Cut(a.body, `"b64_json":"`)
	picture, _, _ := strings.Cut(rest, `"`)
	if _, err := base64.StdEncoding.DecodeString(picture); err != nil {
		t.Fatal(err)
	}
	want := `{"created":1772366400,"data":[{"b64_json":"` + picture + `"}],"background":"opaque","output_format":"png",` +
		`"quality":"low","size":"1536x1024","usage":{"total_tokens":35,"input_tokens":3,"output_tokens":32,` +
		`"input_tokens_details":{"text_tokens":3,"image_tokens":0}}}`
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}
