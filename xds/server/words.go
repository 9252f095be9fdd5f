package server

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// maxWords bounds what is told of a rejection, in bytes: Envoy's words can quote the whole resource.
const maxWords = 1024

// aboutSecret stands for Envoy's words about a Secret: where one breaks a rule of its schema, they quote it. Other resources
// name Secrets and hold nothing of them.
const aboutSecret = "Envoy rejects it; its words could quote the Secret and are left out here: see Envoy's own log"

// rejection is why Envoy rejects a response; empty if it accepts it.
func rejection(req *discoveryv3.DeltaDiscoveryRequest) string {
	switch {
	case req.GetErrorDetail() == nil:
		return ""
	case req.GetTypeUrl() == resourcev3.SecretType:
		return aboutSecret
	case strings.TrimSpace(req.GetErrorDetail().GetMessage()) == "":
		return "rejected without a word" // An empty text would mean that it was accepted.
	}
	return bounded(strings.TrimSpace(req.GetErrorDetail().GetMessage()))
}

// rejections are the words for each of the names in a response that Envoy rejects. Of listeners and clusters Envoy applies
// what is good and names the others. Where it names none it may have applied none, and all are rejected.
func rejections(req *discoveryv3.DeltaDiscoveryRequest, names []string) (words map[string]string, named bool) {
	why := rejection(req)
	if why == "" {
		return nil, false
	}
	if words = byName(req, names); len(words) > 0 {
		return words, true
	}
	words = map[string]string{}
	for _, name := range names {
		words[name] = why
		if req.GetTypeUrl() == resourcev3.SecretType {
			words[name] = name + ": " + why
		}
	}
	return words, false
}

// lists is how Envoy begins the words about several resources, and what it puts between them.
var lists = map[string]struct{ begin, between string }{
	resourcev3.ListenerType: {"Error adding/updating listener(s) ", "\n"},
	resourcev3.ClusterType:  {"Error adding/updating cluster(s) ", ", "},
}

// byName cuts Envoy's words into those about each name; nil if they have another form.
func byName(req *discoveryv3.DeltaDiscoveryRequest, names []string) map[string]string {
	list := lists[req.GetTypeUrl()]
	rest, ok := strings.CutPrefix(req.GetErrorDetail().GetMessage(), list.begin)
	if !ok || list.begin == "" {
		return nil
	}
	rest = list.between + rest
	starts := map[int]string{}
	for _, name := range names {
		if at := strings.Index(rest, list.between+name+": "); at >= 0 {
			starts[at] = name
		}
	}
	words, end := map[string]string{}, len(rest)
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(starts))) {
		words[starts[at]] = bounded(strings.TrimSpace(strings.TrimPrefix(rest[at:end], list.between)))
		end = at
	}
	return words
}

// bounded cuts a text that is too long, between two characters.
func bounded(text string) string {
	if len(text) <= maxWords {
		return text
	}
	const more = "…"
	end := maxWords - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
