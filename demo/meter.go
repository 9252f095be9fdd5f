package demo

import (
	"io"
	"net/http"
)

// A meteredReader keeps in the record how much of the body came.
type meteredReader struct {
	io.Reader
	note func(func(*Request))
}

func (r *meteredReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.note(func(q *Request) { q.BytesRead += int64(n) })
	return n, err
}

// A meteredWriter keeps the status and the size of the body in the record.
type meteredWriter struct {
	http.ResponseWriter
	note func(func(*Request))
}

func (w *meteredWriter) WriteHeader(status int) {
	w.note(func(q *Request) { q.Status = status })
	w.ResponseWriter.WriteHeader(status)
}

func (w *meteredWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.note(func(q *Request) { q.BytesWritten += int64(n) })
	return n, err
}

// Unwrap lets http.ResponseController flush what is beneath.
func (w *meteredWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
