package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// A chunk is the text of one document.
type chunk struct {
	text []byte
	line int // in the file, from 1, of its first line
	json bool
}

// digest identifies a chunk by its content.
type digest [sha256.Size]byte

func (c chunk) digest() digest {
	if c.json {
		return sha256.Sum256(append([]byte("json\n"), c.text...))
	}
	return sha256.Sum256(append([]byte("yaml\n"), c.text...))
}

// placed is a document and where in its file it stands.
type placed struct {
	*document
	number int
	line   int
}

// read splits a file into documents. Documents that the last Load met are not parsed again; cache gathers those of this one.
func (l *Loader) read(path string, cache map[digest]*document) []placed {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since the directory was listed
	}
	if err != nil {
		return []placed{{unreadable(0, whyUnreadable(err)), 0, 1}}
	}
	chunks, broken := split(text, filepath.Ext(path) == ".json")
	var docs []placed
	for _, c := range chunks {
		sum := c.digest()
		d := cache[sum]
		if d == nil {
			d = l.cache[sum]
		}
		if d == nil {
			d = parse(c)
		}
		cache[sum] = d
		docs = append(docs, placed{d, len(docs) + 1, c.line})
	}
	if broken != nil {
		docs = append(docs, placed{unreadable(1, broken.message), len(docs) + 1, broken.line})
	}
	return docs
}

var errTooLarge = errors.New("larger than the limit")

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // Nothing was written.
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err == nil && len(text) > MaxFileBytes {
		return nil, errTooLarge // it grew since the directory was listed
	}
	return text, err
}

// broken says from where on a file cannot be split.
type broken struct {
	line    int
	message string
}

// split finds the documents of a file and, if it cannot be split to its end, why.
func split(text []byte, isJSON bool) ([]chunk, *broken) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) {
		return nil, &broken{1, "This file is not UTF-8 text; save it as UTF-8."}
	}
	if isJSON {
		return splitJSON(text)
	}
	return splitYAML(text), nil
}

// splitYAML cuts before each line that begins with "---" and after each that begins with "...", as YAML has it.
func splitYAML(text []byte) []chunk {
	var chunks []chunk
	begin, beginLine := 0, 1
	cut := func(end, next, nextLine int) {
		if c := (chunk{text: text[begin:end], line: beginLine}); !c.blank() {
			chunks = append(chunks, c)
		}
		begin, beginLine = next, nextLine
	}
	line := 1
	for at := 0; at < len(text); line++ {
		next := len(text)
		if n := bytes.IndexByte(text[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		switch {
		case isMarker(text[at:next], "---"):
			cut(at, at, line)
		case isMarker(text[at:next], "..."):
			cut(at, next, line+1)
		}
		at = next
	}
	cut(len(text), len(text), line)
	return chunks
}

func isMarker(line []byte, marker string) bool {
	rest, found := bytes.CutPrefix(line, []byte(marker))
	return found && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// blank reports whether there is nothing but comments, directives and marks.
func (c chunk) blank() bool {
	for line := range bytes.Lines(c.text) {
		if isMarker(line, "---") {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// splitJSON reads value after value.
func splitJSON(text []byte) ([]chunk, *broken) {
	var chunks []chunk
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		end := decoder.InputOffset()
		if errors.Is(err, io.EOF) {
			return chunks, nil
		}
		if err != nil {
			return chunks, brokenJSON(text, end, err)
		}
		chunks = append(chunks, chunk{text: value, line: lineAt(text, end-int64(len(value))), json: true})
	}
}

func brokenJSON(text []byte, end int64, err error) *broken {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		// What is quoted is one character at most.
		return &broken{lineAt(text, end+max(0, syntax.Offset-1)), fmt.Sprintf("This is not valid JSON: %v.", syntax)}
	}
	return &broken{lineAt(text, int64(len(text))), "This is not valid JSON: it ends too early."}
}

func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(offset, int64(len(text)))], []byte("\n"))
}
