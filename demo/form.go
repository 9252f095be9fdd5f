package demo

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
)

// mostFormText bounds what is kept of the names and texts of a form; what is beyond it is left out.
const mostFormText = 64 << 10

// A form is what is kept of a multipart body. Of files that is their number and size.
type form struct {
	texts     map[string]string
	files     int
	fileBytes int64
	fault     error // why it could not be read
}

// upload reads a form as it comes, and to its end.
func upload(x *exchange, in io.Reader) error {
	x.form.fault = x.form.read(x.request.Header.Get("Content-Type"), in)
	_, err := io.Copy(io.Discard, in) // of a connection that broke, or a body too large, the same error again
	return err
}

func (f *form) read(contentType string, in io.Reader) error {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return badRequest("", "The body of the request is not of type multipart/form-data.")
	}
	f.texts = map[string]string{}
	room := int64(mostFormText)
	parts := multipart.NewReader(in, params["boundary"])
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f.keep(part, &room)
		}
		if err != nil {
			return badRequest("", "The body of the request is not a whole multipart form.")
		}
	}
}

func (f *form) keep(part *multipart.Part, room *int64) error {
	if part.FileName() != "" {
		n, err := io.Copy(io.Discard, part)
		f.files++
		f.fileBytes += n
		return err
	}
	name := part.FormName()
	*room -= int64(len(name))
	if *room <= 0 {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(part, *room))
	f.texts[name] = string(text)
	*room -= int64(len(text))
	return err
}
