package demo

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/png"
	"strconv"
	"strings"
	"sync"
)

// tokensPerImage is what each image that is sent in costs.
const tokensPerImage = 64

type imageRequest struct {
	Model  string `json:"model"`
	Prompt string `json:"prompt"`
	N      *int   `json:"n"`
	Size   string `json:"size"`
	given  int    // images that came with it
}

func generateImages(x *exchange) error {
	var q imageRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	return q.answer(x)
}

// changeImages is for edits, and for variations, which know no prompt.
func changeImages(x *exchange) error {
	if x.form.fault != nil {
		return x.form.fault
	}
	if x.form.files == 0 {
		return badRequest("image", "image: at least one is required")
	}
	q := imageRequest{Model: x.form.texts["model"], Prompt: x.form.texts["prompt"], Size: x.form.texts["size"], given: x.form.files}
	if n, given := x.form.texts["n"]; given {
		number, err := strconv.Atoi(n)
		if err != nil {
			return badRequest("n", "n: must be a number")
		}
		q.N = &number
	}
	return q.answer(x)
}

func (q *imageRequest) answer(x *exchange) error {
	if q.Model == "" {
		q.Model = "dall-e-2" // OpenAI's API reference
	}
	if q.Prompt == "" && q.given == 0 {
		return badRequest("prompt", "prompt: must be a text")
	}
	if err := (demand{model: q.Model, choices: number{"n", q.N}}).check(); err != nil {
		return err
	}
	n := 1
	if q.N != nil {
		n = *q.N
	}
	text := optionalTokens(q.Prompt)
	made := cost{input: text + q.given*tokensPerImage}
	more := ""
	if !strings.HasPrefix(q.Model, "dall-e") { // those are not counted in tokens
		made.output = n * x.wanted()
		more = q.details(x, text, made)
	}
	x.understood(q.Model, false, made)
	data := strings.TrimSuffix(strings.Repeat(`{"b64_json":"`+picture()+`"},`, n), ",")
	return x.json(fmt.Sprintf(`{"created":%d,"data":[%s]%s}`, x.created(), data, more))
}

// details are the fields that models which count tokens add, with the comma before them.
func (q *imageRequest) details(x *exchange, text int, made cost) string {
	size := q.Size
	if size == "" || size == "auto" {
		size = "1024x1024"
	}
	usage := ""
	if !x.switches.noUsage {
		usage = fmt.Sprintf(`,"usage":{"total_tokens":%d,"input_tokens":%d,"output_tokens":%d,`+
			`"input_tokens_details":{"text_tokens":%d,"image_tokens":%d}}`,
			made.input+made.output, made.input, made.output, text, made.input-text)
	}
	return `,"background":"opaque","output_format":"png","quality":"low","size":` + asJSON(size) + usage
}

// picture is a small grey image, as PNG in base64.
var picture = sync.OnceValue(func() string {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 16))); err != nil {
		panic(err) // a buffer takes all
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
})
