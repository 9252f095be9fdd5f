package demo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const (
	bytesPerSecond  = 16_000 // of audio that is sent in, whatever its format
	tokensPerSecond = 10
	samplesPerSound = 24_000 // of audio that is answered, each of 2 bytes: one second
)

type speechRequest struct {
	Model          string `json:"model"`
	Input          string `json:"input"`
	ResponseFormat string `json:"response_format"`
}

// speech answers with a second of silence.
func speech(x *exchange) error {
	var q speechRequest
	if err := decode(x.body, &q); err != nil {
		return err
	}
	switch {
	case q.Model == "":
		return errNoModel
	case q.Input == "":
		return badRequest("input", "input: must be a text")
	}
	var contentType, sound string
	switch q.ResponseFormat {
	case "", "mp3":
		contentType, sound = "audio/mpeg", silentMP3()
	case "wav":
		contentType, sound = "audio/wav", silentWAV()
	case "pcm":
		contentType, sound = "audio/pcm", string(make([]byte, 2*samplesPerSound))
	default:
		return badRequest("response_format", "response_format: the demo upstream speaks mp3, wav and pcm")
	}
	x.understood(q.Model, false, cost{input: optionalTokens(q.Input)})
	return x.reply(http.StatusOK, contentType, sound)
}

// silentMP3 has 38 frames of layer III, at 44.1 kHz and 128 kbit/s, of one channel: their header and no sound.
func silentMP3() string {
	const frame, frames = 417, 38
	return strings.Repeat("\xff\xfb\x90\xc4"+strings.Repeat("\x00", frame-4), frames)
}

func silentWAV() string {
	const size = 2 * samplesPerSound
	var b bytes.Buffer
	for _, v := range []any{
		[]byte("RIFF"), uint32(36 + size), []byte("WAVEfmt "), uint32(16),
		uint16(1), uint16(1), uint32(samplesPerSound), uint32(size), uint16(2), uint16(16),
		[]byte("data"), uint32(size), make([]byte, size),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a buffer takes all
	}
	return b.String()
}

// transcribe is for transcriptions, and for translations, which have the same form.
func transcribe(x *exchange) error {
	f := x.form
	format := f.texts["response_format"]
	switch {
	case f.fault != nil:
		return f.fault
	case f.files == 0:
		return badRequest("file", "file: is required")
	case !slices.Contains([]string{"", "json", "verbose_json", "text"}, format):
		return badRequest("response_format", "response_format: the demo upstream writes json, verbose_json and text")
	}
	seconds := int(max(1, (f.fileBytes+bytesPerSecond-1)/bytesPerSecond))
	hint := optionalTokens(f.texts["prompt"])
	timed := strings.HasPrefix(f.texts["model"], "whisper") // these are paid by the second, and do not stream
	j, err := x.job(demand{
		model: f.texts["model"], stream: f.texts["stream"] == "true" && !timed,
		input: seconds*tokensPerSecond + hint, plain: true,
	})
	if err != nil {
		return err
	}
	usage := ""
	switch {
	case x.switches.noUsage:
	case timed:
		usage = fmt.Sprintf(`,"usage":{"type":"duration","seconds":%d}`, seconds)
	default:
		usage = fmt.Sprintf(`,"usage":{"type":"tokens","total_tokens":%d,"input_tokens":%d,`+
			`"input_token_details":{"text_tokens":%d,"audio_tokens":%d},"output_tokens":%d}`,
			j.input+j.output, j.input, hint, j.input-hint, j.output)
	}
	switch {
	case j.stream:
		return transcriptEvents(j, usage)
	case format == "text":
		return x.reply(http.StatusOK, "text/plain; charset=utf-8", j.text()+"\n")
	case format == "verbose_json":
		return x.json(fmt.Sprintf(`{"task":"transcribe","language":"english","duration":%d,"text":%s,"segments":[]%s}`,
			seconds, asJSON(j.text()), usage))
	}
	return x.json(`{"text":` + asJSON(j.text()) + usage + `}`)
}

// transcriptEvents have no names, and nothing follows the last.
func transcriptEvents(j *job, usage string) error {
	unnamed := func(kind, fields string) event { return event{data: typed(kind, fields).data} }
	return j.events(nil, func(_ int, word string) event {
		return unnamed("transcript.text.delta", `,"delta":`+asJSON(word))
	}, []event{unnamed("transcript.text.done", `,"text":`+asJSON(j.text())+usage)})
}
