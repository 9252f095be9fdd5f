package demo

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
)

// A route is how the paths of one pattern are answered.
type route struct {
	pattern string // as path.Match reads it
	method  string // empty: any
	read    func(x *exchange, in io.Reader) error
	answer  func(*exchange) error
	problem func(p *problem, requestID string) string
}

// The first route that fits holds.
var routes = []route{
	{"/v1/chat/completions", http.MethodPost, whole, chat, openAIError},
	{"/v1/completions", http.MethodPost, whole, completions, openAIError},
	{"/v1/responses", http.MethodPost, whole, responses, openAIError},
	{"/v1/embeddings", http.MethodPost, whole, embeddings, openAIError},
	{"/v1/images/generations", http.MethodPost, whole, generateImages, openAIError},
	{"/v1/images/edits", http.MethodPost, upload, changeImages, openAIError},
	{"/v1/images/variations", http.MethodPost, upload, changeImages, openAIError},
	{"/v1/audio/speech", http.MethodPost, whole, speech, openAIError},
	{"/v1/audio/transcriptions", http.MethodPost, upload, transcribe, openAIError},
	{"/v1/audio/translations", http.MethodPost, upload, transcribe, openAIError},
	{"/v1/models", http.MethodGet, discard, models, openAIError},
	{"/v1/video/queue", http.MethodPost, whole, queueVideo, openAIError},
	{"/v1/video/retrieve", "", whole, retrieveVideo, openAIError},

	{"/v1/messages", http.MethodPost, whole, messages, anthropicError},
	{"/v1/messages/count_tokens", http.MethodPost, whole, messageTokens, anthropicError},
	{"/v1/messages/*", "", discard, fixed, anthropicError},

	{"/v1*/models/*:generateContent", http.MethodPost, whole, generate, geminiError},
	{"/v1*/models/*:streamGenerateContent", http.MethodPost, whole, generateStream, geminiError},
	{"/v1*/models/*:countTokens", http.MethodPost, whole, geminiTokens, geminiError},
	{"/v1*/models/*:*", "", discard, fixed, geminiError},
}

var anyOther = route{"", "", discard, fixed, openAIError}

// routeOf reads a path with or without the "/api" that some gateways put before it.
func routeOf(r *http.Request) route {
	if r.Method == http.MethodOptions {
		return anyOther
	}
	name := r.URL.Path
	if rest, below := strings.CutPrefix(name, "/api/"); below {
		name = "/" + rest
	}
	for _, route := range routes {
		if fits, _ := path.Match(route.pattern, name); fits { // a pattern with a mistake in it fits nothing
			return route
		}
	}
	return anyOther
}

// whole keeps the body.
func whole(x *exchange, in io.Reader) (err error) {
	x.body, err = io.ReadAll(in)
	return err
}

// discard lets the body go by.
func discard(_ *exchange, in io.Reader) error {
	_, err := io.Copy(io.Discard, in)
	return err
}

// fixed is the reply where there is nothing to say.
func fixed(x *exchange) error {
	return x.json(fmt.Sprintf(`{"object":"demo.reply","method":%s,"path":%s,"body_bytes":%d}`,
		asJSON(x.request.Method), asJSON(x.request.URL.Path), x.record.BytesRead))
}
