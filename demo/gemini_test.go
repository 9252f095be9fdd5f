package demo_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

const (
	geminiPath     = "/v1beta/models/gemini-2.5-flash:generateContent"
	geminiListPath = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
	geminiSSEPath  = geminiListPath + "?alt=sse"
	geminiBody     = `{"contents":[{"role":"user","parts":[{"text":"Say hello, please"}]}]}`
)

// geminiChunk is an answer, or a chunk of one, on the wire.
func geminiChunk(text, finish string, candidates, total int) string {
	return fmt.Sprintf(`{"candidates":[{"content":{"parts":[{"text":%q}],"role":"model"},%s"index":0}],"usageMetadata":`+
		`{"promptTokenCount":5,"candidatesTokenCount":%d,"totalTokenCount":%d,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]},`+
		`"modelVersion":"gemini-2.5-flash","responseId":"demo000000000000000000000001"}`, text, finish, candidates, total)
}

func TestGeminiOnTheWire(t *testing.T) {
	t.Parallel()
	const limited = `{"generationConfig":{"maxOutputTokens":2},`
	cases := map[string]struct{ path, body, contentType, want string }{
		"json": {
			geminiPath, limited + geminiBody[1:], "application/json",
			geminiChunk("the old", `"finishReason":"MAX_TOKENS",`, 2, 7),
		},
		"events": {
			geminiSSEPath, geminiBody, "text/event-stream; charset=utf-8",
			"data: " + geminiChunk("the", "", 1, 6) + "\n\ndata: " + geminiChunk(" old", "", 2, 7) +
				"\n\ndata: " + geminiChunk("", `"finishReason":"STOP",`, 2, 7) + "\n\n",
		},
		"list": {
			geminiListPath, geminiBody, "application/json; charset=UTF-8",
			"[" + geminiChunk("the", "", 1, 6) + "\n,\r\n" + geminiChunk(" old", "", 2, 7) +
				"\n,\r\n" + geminiChunk("", `"finishReason":"STOP",`, 2, 7) + "\n]\n",
		},
		"a list of nothing said": {
			geminiListPath, geminiBody, "application/json; charset=UTF-8",
			"[" + geminiChunk("", `"finishReason":"STOP",`, 0, 5) + "\n]\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			tokens := 2
			if strings.Contains(name, "nothing") {
				tokens = 0
			}
			a := f.post(t, tc.path, tc.body, fmt.Sprintf("x-demo-tokens: %d", tokens+strings.Count(tc.body, "max")))
			if diff := cmp.Diff(tc.want, a.body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if got := a.header.Get("Content-Type"); got != tc.contentType {
				t.Errorf("content type %q, want %q", got, tc.contentType)
			}
			r := f.only(t)
			if r.Model != "gemini-2.5-flash" || r.InputTokens != 5 || r.OutputTokens != tokens || r.Stream != (tc.path != geminiPath) || r.Outcome != demo.Done {
				t.Errorf("remembered %+v", r)
			}
		})
	}
}

func TestGeminiAlsoBelowV1(t *testing.T) {
	t.Parallel()
	f := start(t)
	if a := f.post(t, "/v1/models/gemini-2.5-pro:generateContent", geminiBody); !strings.Contains(a.body, `"modelVersion":"gemini-2.5-pro"`) {
		t.Errorf("got %s", a.body)
	}
}

// The list is whole JSON only at its end.
func TestEachChunkOfGeminisListCountsUpToThere(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.post(t, geminiListPath, `{"generationConfig":{"candidateCount":2},`+geminiBody[1:], "x-demo-tokens: 3")
	var chunks []struct {
		Candidates []struct {
			Index        int
			FinishReason string
		}
		UsageMetadata struct{ CandidatesTokenCount, TotalTokenCount int }
	}
	if err := json.Unmarshal([]byte(a.body), &chunks); err != nil {
		t.Fatal(err)
	}
	var counts, indices []int
	for _, c := range chunks {
		counts = append(counts, c.UsageMetadata.CandidatesTokenCount)
		for _, candidate := range c.Candidates {
			indices = append(indices, candidate.Index)
		}
	}
	if diff := cmp.Diff([]int{1, 2, 3, 4, 5, 6, 6}, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{0, 1, 0, 1, 0, 1, 0, 1}, indices); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
}

func TestGeminiCountsAllTextThatIsSent(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		body   string
		tokens int // 0: refused
	}{
		"contents":           {geminiBody, 5},
		"an instruction too": {`{"systemInstruction":{"parts":[{"text":"abcd"}]},` + geminiBody[1:], 6},
		"a part alone":       {`{"contents":{"parts":{"text":"abcd"}}}`, 1},
		"several":            {`{"contents":[{"parts":[{"text":"abcd"},{"inlineData":{"data":"eA=="}}]},{"role":"model","parts":[{"text":"abcd"}]}]}`, 2},
		"an image alone":     {`{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"eA=="}}]}]}`, 1},
		"nothing":            {`{}`, 0},
		"not JSON":           {`{`, 0},
		"no room":            {`{"generationConfig":{"maxOutputTokens":0},` + geminiBody[1:], 0},
		"no candidate":       {`{"generationConfig":{"candidateCount":0},` + geminiBody[1:], 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, geminiPath, tc.body)
			if refused := a.status == http.StatusBadRequest && strings.Contains(a.body, `"status":"INVALID_ARGUMENT"`); refused != (tc.tokens == 0) {
				t.Errorf("got %d %s", a.status, a.body)
			}
			if r := f.only(t); r.InputTokens != tc.tokens {
				t.Errorf("remembered %d, want %d", r.InputTokens, tc.tokens)
			}
		})
	}
}
