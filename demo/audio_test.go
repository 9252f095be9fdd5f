package demo_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

const (
	speechPath         = "/v1/audio/speech"
	transcriptionsPath = "/v1/audio/transcriptions"
)

func TestSpeechComesInTheFormatThatIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		format, contentType, begins string
		size                        int
	}{
		"by default": {``, "audio/mpeg", "\xff\xfb", 38 * 417},
		"mp3":        {`,"response_format":"mp3"`, "audio/mpeg", "\xff\xfb", 38 * 417},
		"wav":        {`,"response_format":"wav"`, "audio/wav", "RIFF\xa4\xbb\x00\x00WAVEfmt ", 44 + 48_000},
		"pcm":        {`,"response_format":"pcm"`, "audio/pcm", "\x00\x00", 48_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, speechPath, `{"model":"tts-1","voice":"alloy","input":"Say hello, please"`+tc.format+`}`)
			if got := a.header.Get("Content-Type"); got != tc.contentType || len(a.body) != tc.size || !strings.HasPrefix(a.body, tc.begins) {
				t.Errorf("got %s, %d bytes that begin %q", got, len(a.body), a.body[:8])
			}
			if r := f.only(t); r.Model != "tts-1" || r.InputTokens != 5 || r.OutputTokens != 0 {
				t.Errorf("remembered %s with %d and %d tokens", r.Model, r.InputTokens, r.OutputTokens)
			}
		})
	}
}

func TestTranscriptionOnTheWire(t *testing.T) {
	t.Parallel()
	const spent = `"usage":{"type":"tokens","total_tokens":23,"input_tokens":21,"input_token_details":{"text_tokens":1,"audio_tokens":20},"output_tokens":2}`
	cases := map[string]struct {
		path, contentType, want string
		texts                   []string
		input                   int
		stream                  bool
	}{
		"json": {
			transcriptionsPath, "application/json", `{"text":"the old",` + spent + `}`,
			[]string{"model: gpt-4o-transcribe", "prompt: fox"},
			21, false,
		},
		"by the second": {
			transcriptionsPath, "application/json", `{"text":"the old","usage":{"type":"duration","seconds":2}}`,
			[]string{"model: whisper-1", "response_format: json", "stream: true"},
			20, false,
		},
		"verbose": {
			transcriptionsPath, "application/json",
			`{"task":"transcribe","language":"english","duration":2,"text":"the old","segments":[],"usage":{"type":"duration","seconds":2}}`,
			[]string{"model: whisper-1", "response_format: verbose_json"},
			20, false,
		},
		"text": {
			transcriptionsPath, "text/plain; charset=utf-8", "the old\n",
			[]string{"model: whisper-1", "response_format: text"},
			20, false,
		},
		"translated": {
			"/v1/audio/translations", "application/json", `{"text":"the old","usage":{"type":"duration","seconds":2}}`,
			[]string{"model: whisper-1"},
			20, false,
		},
		"events": {
			transcriptionsPath, "text/event-stream; charset=utf-8",
			"data: {\"type\":\"transcript.text.delta\",\"delta\":\"the\"}\n\n" +
				"data: {\"type\":\"transcript.text.delta\",\"delta\":\" old\"}\n\n" +
				"data: {\"type\":\"transcript.text.done\",\"text\":\"the old\"," + spent + "}\n\n",
			[]string{"model: gpt-4o-mini-transcribe", "prompt: fox", "stream: true"},
			21, true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			body, contentType := formOf(t, "file", 16_001, tc.texts...)
			a := f.post(t, tc.path, body, contentType, "x-demo-tokens: 2", "x-demo-cached: 9", "x-demo-reasoning: 9")
			if diff := cmp.Diff(tc.want, a.body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if got := a.header.Get("Content-Type"); got != tc.contentType {
				t.Errorf("content type %q, want %q", got, tc.contentType)
			}
			r := f.only(t)
			if r.InputTokens != tc.input || r.OutputTokens != 2 || r.CachedTokens != 0 || r.Stream != tc.stream || r.Outcome != demo.Done {
				t.Errorf("remembered %+v", r)
			}
		})
	}
}

func TestACutTranscript(t *testing.T) {
	t.Parallel()
	f := start(t)
	body, contentType := formOf(t, "file", 16_000, "model: gpt-4o-transcribe", "stream: true")
	a := f.do(t, "POST", transcriptionsPath, body, contentType, "x-demo-abort: 10")
	if r := f.only(t); strings.Count(a.body, "delta\":") != 10 || a.err == nil || r.OutputTokens != 10 || r.Outcome != demo.Aborted {
		t.Errorf("got %s, remembered %d tokens, %s", a.body, r.OutputTokens, r.Outcome)
	}
}
