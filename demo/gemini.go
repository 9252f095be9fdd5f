package demo

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

type geminiRequest struct {
	Contents          *textSize `json:"contents"`
	SystemInstruction textSize  `json:"systemInstruction"`
	GenerationConfig  struct {
		CandidateCount  *int `json:"candidateCount"`
		MaxOutputTokens *int `json:"maxOutputTokens"`
	} `json:"generationConfig"`
}

// geminiModel is the model in a path that ends in MODEL:METHOD.
func geminiModel(x *exchange) string {
	model, _, _ := strings.Cut(path.Base(x.request.URL.Path), ":")
	return model
}

func geminiDecode(x *exchange) (q geminiRequest, input int, err error) {
	if err := decode(x.body, &q); err != nil {
		return q, 0, err
	}
	if q.Contents == nil {
		return q, 0, badRequest("contents", "contents: is not specified")
	}
	return q, inputTokens(*q.Contents + q.SystemInstruction), nil
}

func geminiJob(x *exchange, stream bool) (*job, error) {
	q, input, err := geminiDecode(x)
	if err != nil {
		return nil, err
	}
	return x.job(demand{
		model: geminiModel(x), stream: stream, input: input,
		choices: number{"generationConfig.candidateCount", q.GenerationConfig.CandidateCount},
		maxima:  []number{{"generationConfig.maxOutputTokens", q.GenerationConfig.MaxOutputTokens}},
	})
}

// geminiTokens counts what a request would cost; that itself costs nothing.
func geminiTokens(x *exchange) error {
	_, input, err := geminiDecode(x)
	if err != nil {
		return err
	}
	x.understood(geminiModel(x), false, cost{})
	return x.json(fmt.Sprintf(`{"totalTokens":%d,"promptTokensDetails":[{"modality":"TEXT","tokenCount":%[1]d}]}`, input))
}

func generate(x *exchange) error {
	j, err := geminiJob(x, false)
	if err != nil {
		return err
	}
	return x.json(geminiObject(j, geminiEnds(j, j.text()), j.output*j.n))
}

func generateStream(x *exchange) error {
	j, err := geminiJob(x, true)
	if err != nil {
		return err
	}
	last := geminiObject(j, geminiEnds(j, ""), j.output*j.n)
	around := func(choice int, word string) string {
		return geminiObject(j, geminiCandidate(choice, word, ""), j.streamed+1)
	}
	if x.request.URL.Query().Get("alt") == "sse" {
		return j.events(nil, func(choice int, word string) event {
			return event{data: around(choice, word)}
		}, []event{{data: last}})
	}
	return geminiList(j, around, last)
}

// geminiList is a stream as the elements of a JSON list, each sent as it is made.
func geminiList(j *job, around func(choice int, word string) string, last string) error {
	j.begin("application/json; charset=UTF-8")
	separator := "["
	err := j.speak(func(choice int, word string) error {
		piece := separator + around(choice, word)
		separator = "\n,\r\n"
		return j.write(piece)
	})
	if err != nil {
		return err
	}
	return j.write(separator + last + "\n]\n")
}

// geminiObject is an answer or a chunk of one, when so many visible tokens were sent.
func geminiObject(j *job, candidates string, sent int) string {
	usage := ""
	if !j.switches.noUsage {
		usage = geminiUsage(j, sent)
	}
	return fmt.Sprintf(`{"candidates":[%s]%s,"modelVersion":%s,"responseId":"demo%024d"}`, candidates, usage, asJSON(j.model), j.sequence)
}

func geminiUsage(j *job, sent int) string {
	cached, thoughts := "", ""
	if j.cached > 0 {
		cached = fmt.Sprintf(`"cachedContentTokenCount":%d,"cacheTokensDetails":[{"modality":"TEXT","tokenCount":%[1]d}],`, j.cached)
	}
	if j.reasoning > 0 {
		thoughts = fmt.Sprintf(`"thoughtsTokenCount":%d,`, j.reasoning*j.n)
	}
	return fmt.Sprintf(`,"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,%s%s"totalTokenCount":%d,`+
		`"promptTokensDetails":[{"modality":"TEXT","tokenCount":%[1]d}]}`, j.input, sent, cached, thoughts, j.input+sent+j.reasoning*j.n)
}

// geminiEnds is every candidate with its last text, and why there is no more.
func geminiEnds(j *job, text string) string {
	candidates := make([]string, j.n)
	for i := range candidates {
		candidates[i] = geminiCandidate(i, text, fmt.Sprintf(`"finishReason":"%s",`, j.ended("STOP", "MAX_TOKENS")))
	}
	return strings.Join(candidates, ",")
}

func geminiCandidate(index int, text, finish string) string {
	return fmt.Sprintf(`{"content":{"parts":[{"text":%s}],"role":"model"},%s"index":%d}`, asJSON(text), finish, index)
}

// geminiError is the body of a Google error.
func geminiError(p *problem, _ string) string {
	status, known := map[int]string{
		http.StatusUnauthorized:       "UNAUTHENTICATED",
		http.StatusForbidden:          "PERMISSION_DENIED",
		http.StatusNotFound:           "NOT_FOUND",
		http.StatusConflict:           "ABORTED",
		http.StatusTooManyRequests:    "RESOURCE_EXHAUSTED",
		http.StatusNotImplemented:     "UNIMPLEMENTED",
		http.StatusServiceUnavailable: "UNAVAILABLE",
		http.StatusGatewayTimeout:     "DEADLINE_EXCEEDED",
	}[p.status]
	switch {
	case known:
	case p.status >= http.StatusInternalServerError:
		status = "INTERNAL"
	default:
		status = "INVALID_ARGUMENT"
	}
	return fmt.Sprintf(`{"error":{"code":%d,"message":%s,"status":"%s"}}`, p.status, asJSON(p.message), status)
}
