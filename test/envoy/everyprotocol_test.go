package envoy_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"
)

// everyProtocol serves each API on the paths that its provider gives it. Models of forms are said by their routes.
const everyProtocol = `
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 8090}]}]
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat}
  - {name: completions, matches: [{path: {type: Exact, value: /v1/completions}, method: POST}], type: Backend, backendName: demo, protocol: OpenAICompletions, resource: chat}
  - {name: responses, matches: [{path: {type: Exact, value: /v1/responses}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIResponses, resource: chat}
  - {name: embeddings, matches: [{path: {type: Exact, value: /v1/embeddings}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIEmbeddings, resource: embeddings}
  - {name: images, matches: [{path: {type: Exact, value: /v1/images/generations}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIImages, resource: images}
  - {name: image-edits, matches: [{path: {type: PathPrefix, value: /v1/images}, method: POST}], type: Backend, backendName: demo, protocol: OpaqueBody, model: gpt-image-edit, resource: images}
  - {name: speech, matches: [{path: {type: Exact, value: /v1/audio/speech}, method: POST}], type: Backend, backendName: demo, protocol: JSONBody, resource: audio}
  - {name: transcriptions, matches: [{path: {type: Exact, value: /v1/audio/transcriptions}, method: POST}], type: Backend, backendName: demo, protocol: OpenAITranscriptions, model: gpt-4o-transcribe, resource: audio}
  - {name: messages, matches: [{path: {type: Exact, value: /v1/messages}, method: POST}], type: Backend, backendName: demo, protocol: AnthropicMessages, resource: chat}
  - {name: gemini, matches: [{path: {type: PathPrefix, value: /v1beta/models}, method: POST}], type: Backend, backendName: demo, protocol: GeminiGenerateContent, resource: chat}
  pathPrefixes: [/api]
  identity:
    sources: [{header: Authorization, prefix: "Bearer "}, {header: x-api-key}, {header: x-goog-api-key}]
  headers:
    dialects: [{type: PerMetric, perMetric: {requestsReset: UnixSeconds, tokensReset: UnixSeconds}}]
`

// A call is a request of one API in one form, for a model of its own.
type call struct {
	name  string
	build func(model string, header ...string) request
	// model is the one that is charged, where the request cannot say it.
	model string
	// What is known of a stream that is cut: the input, and the output.
	exactInput, exactOutput bool
}

func jsonCall(path string, fields map[string]any) func(string, ...string) request {
	return func(model string, header ...string) request {
		all := map[string]any{"model": model}
		maps.Copy(all, fields)
		return request{path: path, key: keyStreams, body: jsonOf(all), header: header}
	}
}

func geminiCall(method string) func(string, ...string) request {
	return func(model string, header ...string) request {
		body := jsonOf(map[string]any{"contents": []any{map[string]any{"role": "user", "parts": []any{map[string]string{"text": paragraph}}}}})
		return request{path: "/v1beta/models/" + model + ":" + method, key: keyStreams, body: body, header: header}
	}
}

func transcriptionCall(stream string) func(string, ...string) request {
	return func(_ string, header ...string) request {
		var body strings.Builder
		contentType := writeForm(&body, map[string]string{"model": "gpt-4o-transcribe", "stream": stream}, "speech.mp3", 32<<10)
		return request{path: "/v1/audio/transcriptions", key: keyStreams, body: body.String(), contentType: contentType, header: header}
	}
}

// writeForm writes a form with a file of so many bytes, and returns its content type.
func writeForm(to io.Writer, fields map[string]string, file string, size int) string {
	form := multipart.NewWriter(to)
	for name, value := range fields {
		_ = form.WriteField(name, value) // A builder, or a pipe whose reader says what went wrong.
	}
	part, _ := form.CreateFormFile("file", file)
	_, _ = io.CopyN(part, zeros{}, int64(size))
	_ = form.Close()
	return form.FormDataContentType()
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

var (
	question = []map[string]string{{"role": "user", "content": paragraph}}

	answers = []call{
		{name: "chat", build: jsonCall(chatPath, map[string]any{"messages": question})},
		{name: "completions", build: jsonCall("/v1/completions", map[string]any{"prompt": paragraph, "max_tokens": 5000})},
		{name: "responses", build: jsonCall("/v1/responses", map[string]any{"input": paragraph})},
		{name: "messages", build: jsonCall(messagesPath, map[string]any{"messages": question, "max_tokens": 5000})},
		{name: "gemini", build: geminiCall("generateContent")},
		{name: "transcription", build: transcriptionCall("false"), model: "gpt-4o-transcribe"},
	}
	streams = []call{
		{name: "chat-stream", build: jsonCall(chatPath, map[string]any{"messages": question, "stream": true, "stream_options": map[string]bool{"include_usage": true}})},
		{name: "completions-stream", build: jsonCall("/v1/completions", map[string]any{"prompt": paragraph, "max_tokens": 5000, "stream": true, "stream_options": map[string]bool{"include_usage": true}})},
		{name: "responses-stream", build: jsonCall("/v1/responses", map[string]any{"input": paragraph, "stream": true})},
		{name: "messages-stream", build: jsonCall(messagesPath, map[string]any{"messages": question, "max_tokens": 5000, "stream": true}), exactInput: true},
		{name: "gemini-stream", build: geminiCall("streamGenerateContent?alt=sse"), exactInput: true, exactOutput: true},
		{name: "gemini-list", build: geminiCall("streamGenerateContent")},
		{name: "transcription-stream", build: transcriptionCall("true"), model: "gpt-4o-transcribe"},
	}
	others = []call{
		{name: "embeddings", build: jsonCall(embeddingPath, map[string]any{"input": paragraph})},
		{name: "gpt-image-1", build: jsonCall(imagesPath, map[string]any{"prompt": paragraph}), model: "gpt-image-1"},
	}
)

func (c *call) modelName() string { return orElse(c.model, c.name) }

func protocols(t *testing.T) *system {
	t.Helper()
	s := start(t, manifests(everyProtocol, tier("daily", "{metric: Tokens, per: Day, max: 100000000}"), holder("streams", "daily", keyStreams)))
	clearOf(t, 24*time.Hour)
	return s
}

func TestEachProtocolIsChargedWhatTheProviderSent(t *testing.T) {
	t.Parallel()
	for _, group := range [][]call{answers, streams, others} {
		s := protocols(t) // of its own, because models of forms are told apart by nothing
		for _, c := range group {
			s.pass(t, c.build(c.modelName(), "x-demo-tokens: 150", "x-demo-cached: 40", "x-demo-reasoning: 30"))
			_, settled := s.settlement(t, c.modelName())
			sent := s.upstream(t, c.modelName())
			if settled.number(t, "inputTokens") != sent.InputTokens || settled.number(t, "outputTokens") != sent.OutputTokens ||
				settled["inputEstimated"] != "false" || settled["outputEstimated"] != "false" {
				t.Errorf("%s: charged %v, want %d + %d", c.name, settled, sent.InputTokens, sent.OutputTokens)
			}
			if cached := settled.number(t, "cachedTokens"); cached != sent.CachedTokens {
				t.Errorf("%s: %d tokens were cached, want %d", c.name, cached, sent.CachedTokens)
			}
		}
	}
}

func TestAPathPrefixIsNotForwarded(t *testing.T) {
	t.Parallel()
	s := protocols(t)
	for _, c := range answers {
		r := c.build(c.modelName())
		want := r.path
		r.path = "/api" + r.path
		s.pass(t, r)
		if got := s.upstream(t, c.modelName()).Path; got != want {
			t.Errorf("%s: the provider got the path %s, want %s", c.name, got, want)
		}
		if _, settled := s.settlement(t, c.modelName()); settled["outputEstimated"] != "false" {
			t.Errorf("%s: marked as %v", c.name, settled)
		}
	}
}

// An answer with text costs something, whoever forgets to say what.
func TestNoTextIsFree(t *testing.T) {
	t.Parallel()
	for _, group := range [][]call{answers, streams} {
		s := protocols(t)
		for _, c := range group {
			s.pass(t, c.build(c.modelName(), "x-demo-tokens: 400", "x-demo-usage: none"))
			_, settled := s.settlement(t, c.modelName())
			if settled["outputEstimated"] != "true" {
				t.Errorf("%s: marked as %v", c.name, settled)
			}
			if output := settled.number(t, "outputTokens"); !strings.HasPrefix(c.name, "gemini-") {
				near(t, c.name+": output", output, 400)
			} else if output < 150 { // usage is in each event, so without it events are half as long
				t.Errorf("%s: output %d tokens, want at least 150 of 400", c.name, output)
			}
			if c.model == "" {
				near(t, c.name+": input", settled.number(t, "inputTokens"), s.upstream(t, c.name).InputTokens)
			}
		}
	}
}

// Wherever the client leaves: the output is within 25 %, and what the provider has told by then is exact.
func TestAStreamOfAnyProtocolMayBeCutAnywhere(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := protocols(t)
	for _, c := range streams {
		for i := range 3 {
			name := fmt.Sprintf("%s-%d", c.name, i)
			after := 50 + random.Int64N(400)
			if c.model != "" {
				if i > 0 {
					continue
				}
				name = c.model
			}
			st := s.open(t, c.build(name, "x-demo-tokens: 5000", "x-demo-token-delay: 1ms"))
			st.awaitTokens(t, after)
			came := st.tokens.Load()
			st.cut()
			_, settled := s.settlement(t, name)
			sent := s.upstream(t, name)
			if st.status != http.StatusOK || sent.Outcome != "client_gone" || sent.OutputTokens >= 5000 {
				t.Fatalf("%s: status %d, and the stream was not cut: %+v", name, st.status, sent)
			}
			within(t, fmt.Sprintf("%s, cut after %d: output", name, after), settled.number(t, "outputTokens"), came, sent.OutputTokens)
			if got, want := settled["outputEstimated"] == "false", c.exactOutput; got != want {
				t.Errorf("%s: marked as %v", name, settled)
			}
			input := settled.number(t, "inputTokens")
			if got := settled["inputEstimated"] == "false"; c.model == "" && (got != c.exactInput || c.exactInput && input != sent.InputTokens) {
				t.Errorf("%s: input %d, want %d; marked as %v", name, input, sent.InputTokens, settled)
			}
		}
	}
}

// A form is forwarded while it comes: 20 MB of it are never held.
func TestAnUploadIsNotHeldBack(t *testing.T) {
	t.Parallel()
	s := protocols(t)
	body, upload := io.Pipe()
	more := make(chan struct{})
	contentType := make(chan string, 1)
	go func() {
		in := &gate{to: upload, more: more, first: 1 << 20}
		form := multipart.NewWriter(in)
		contentType <- form.FormDataContentType()
		part, _ := form.CreateFormFile("image", "large.png")
		_, _ = io.CopyN(part, zeros{}, 20<<20)
		_ = upload.CloseWithError(form.Close())
	}()
	out, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.port.url()+"/v1/images/edits", body)
	if err != nil {
		t.Fatal(err)
	}
	out.Header.Set("Content-Type", <-contentType)
	out.Header.Set("Authorization", "Bearer "+keyStreams)
	status := make(chan int, 1)
	go func() {
		resp, err := client.Do(out)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	eventually(t, soon, "the provider reads while the client has not sent the rest", func() bool {
		all := s.requests(t)
		return len(all) == 1 && all[0].BytesRead > 1<<19
	})
	close(more)
	if got := <-status; got != http.StatusOK {
		t.Errorf("status %d, want 200", got)
	}
	if sent := s.requests(t)[0]; sent.BytesRead < 20<<20 {
		t.Errorf("the provider got %d bytes, want more than 20 MB", sent.BytesRead)
	}
}

// A gate lets the first bytes through and holds the others back until it is told.
type gate struct {
	to    io.Writer
	first int
	more  chan struct{}
}

// Write implements io.Writer.
func (g *gate) Write(p []byte) (int, error) {
	if g.first -= len(p); g.first < 0 {
		<-g.more
	}
	return g.to.Write(p)
}
