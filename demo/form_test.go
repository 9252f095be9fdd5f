package demo_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/demo"
)

// formOf is a multipart body with a file of so many bytes, if any, between the texts ("name: value"), and its type.
func formOf(t *testing.T, file string, size int, texts ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i, text := range texts {
		name, value, _ := strings.Cut(text, ": ")
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
		if i > 0 || size == 0 {
			continue
		}
		f, err := w.CreateFormFile(file, "a.bin")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), "Content-Type: " + w.FormDataContentType()
}

// TestUploadsAreNotKept runs alone, because what it measures is of the whole process.
func TestUploadsAreNotKept(t *testing.T) {
	const size, most = 20 << 20, 1 << 20
	head := "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4o-transcribe\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n"
	for _, path := range []string{transcriptionsPath, editsPath, "/v1/files"} {
		p := demo.New()
		body := io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, size), strings.NewReader("\r\n--b--\r\n"))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, body)
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; w.Code != 200 || used > most {
			t.Errorf("%s: %d, %d bytes of memory, want at most %d", path, w.Code, used, most)
		}
		if got := p.Requests()[0]; got.BytesRead < size || path != "/v1/files" && got.InputTokens == 0 {
			t.Errorf("%s: remembered %d bytes, %d tokens", path, got.BytesRead, got.InputTokens)
		}
	}
}

func TestUploadsAreCountedAsTheyCome(t *testing.T) {
	t.Parallel()
	p := demo.New()
	in, out := io.Pipe()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, editsPath, in)
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.ServeHTTP(httptest.NewRecorder(), r)
	}()
	first := "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n" + strings.Repeat("x", 100_000)
	if _, err := io.WriteString(out, first); err != nil { // a pipe has no room: what was written was read
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "y"); err != nil {
		t.Fatal(err)
	}
	if got := p.Requests()[0]; got.BytesRead < int64(len(first)) || got.Outcome != demo.Open {
		t.Errorf("after %d bytes: %d read, %s", len(first), got.BytesRead, got.Outcome)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	if got := p.Requests()[0]; got.Status != http.StatusBadRequest {
		t.Errorf("a form that was cut: %d", got.Status)
	}
}

func TestTextsOfFormsAreBounded(t *testing.T) {
	t.Parallel()
	texts := []string{"model: gpt-4o-transcribe"}
	for i := range 100 {
		texts = append(texts, fmt.Sprintf("filler%d: %s", i, strings.Repeat("x", 1000)))
	}
	body, contentType := formOf(t, "file", 16_000, append(texts, "response_format: text")...)
	a := start(t).post(t, transcriptionsPath, body, contentType)
	if a.status != http.StatusOK || !strings.HasPrefix(a.body, "{") {
		t.Errorf("got %d %.80s: what is beyond the bound is left out, what is before holds", a.status, a.body)
	}
}

func TestAFormThatLacksSomethingIsToldWhat(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		path, file string
		texts      []string
		param      any
	}{
		"no file":           {transcriptionsPath, "", []string{"model: whisper-1"}, "file"},
		"no model":          {transcriptionsPath, "file", []string{"language: en"}, "model"},
		"a format":          {transcriptionsPath, "file", []string{"model: whisper-1", "response_format: srt"}, "response_format"},
		"no image":          {editsPath, "", []string{"prompt: a fox"}, "image"},
		"n is no number":    {editsPath, "image", []string{"prompt: a fox", "n: many"}, "n"},
		"n is out of range": {editsPath, "image", []string{"prompt: a fox", "n: 0"}, "n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			body, contentType := formOf(t, tc.file, len(tc.file), tc.texts...)
			a := f.post(t, tc.path, body, contentType)
			e, _ := parse(t, a.body)["error"].(map[string]any)
			if a.status != http.StatusBadRequest || e["param"] != tc.param {
				t.Errorf("got %d %s, want 400 for %v", a.status, a.body, tc.param)
			}
			if r := f.only(t); r.InputTokens+r.OutputTokens != 0 {
				t.Errorf("remembered %d and %d tokens", r.InputTokens, r.OutputTokens)
			}
		})
	}
}
