package envoy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// However a provider answers, what came is charged, and no more.
func TestNoAnswerHidesWhatItCost(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "", "")
	for kind, want := range map[string]int64{
		"an image in an event": 7, // as reported beside 3 MB of image
		"bytes":                250,
		"absurd":               41, // as estimated
		"hardly any events":    1,
	} {
		s.pass(t, request{path: "/v1/responses", key: keyGood, body: fmt.Sprintf(`{"model":%q,"input":"Hello"}`, kind), header: []string{"x-answer: " + kind}})
		if _, settled := s.settlement(t, kind); settled.number(t, "outputTokens") != want {
			t.Errorf("%s: settled as %v, want %d tokens of output", kind, settled, want)
		}
	}
}

// Google's APIs answer in other forms, or leave fields out, usage among them, if a query or a header says so.
func TestNobodyLeavesUsageOutOfGeminisAnswer(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "")
	for query, want := range map[string]string{
		"alt=sse":                       "alt=sse",
		"alt=json&prettyPrint=false":    "alt=json&prettyPrint=false",
		"alt=proto":                     "",
		"$alt=proto&alt=sse":            "alt=sse",
		"%24alt=proto&a=%20b":           "a=%20b",
		"fields=candidates":             "",
		"x=1&%66ields=a&$fields=b&y=2":  "x=1&y=2",
		"callback=f&%24callback=f":      "",
		"key=" + keyGood + "&fields=id": "",
	} {
		for _, method := range []string{"generateContent", "streamGenerateContent"} {
			name := method + query
			s.pass(t, request{
				path: "/v1beta/models/pro:" + method + "?" + query, key: keyGood, body: `{"contents":[]}`,
				header: []string{"x-case: " + name, "X-Goog-FieldMask: candidates"},
			})
			for _, got := range w.of(name) {
				if got.URL.RawQuery != want || got.Header.Get("X-Goog-FieldMask") != "" {
					t.Errorf("%s: the provider got the query %q and the mask %q, want %q and none", name, got.URL.RawQuery, got.Header.Get("X-Goog-FieldMask"), want)
				}
			}
		}
	}
	s.pass(t, request{path: chatPath + "?alt=proto&fields=a", key: keyGood, body: prompt{}.chat(), header: []string{"x-case: chat"}})
	if got := w.of("chat"); len(got) != 1 || got[0].URL.RawQuery != "alt=proto&fields=a" {
		t.Error("the query of a chat is changed")
	}
}

// A server that takes "_" for "-" must not find there what was removed or added under the right name.
func TestNoHeaderIsTakenForAnother(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "")
	s.pass(t, chat(keyGood, prompt{}, "x-case: underscores", "x_api_key: mine", "X_Goog-Api_Key: mine", "X-HTTP_Method-Override: GET", "x-usual: yes"))
	got := w.of("underscores")
	if len(got) != 1 || got[0].Header.Get("x-usual") != "yes" {
		t.Fatalf("%d requests reached the provider, or without their usual headers", len(got))
	}
	for name := range got[0].Header {
		if strings.Contains(name, "_") {
			t.Errorf("the provider got %s", name)
		}
	}
}

// What a provider says of its own priorities is not what we say of ours.
func TestAProvidersPriorityIsNotOurs(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "", "")
	a := s.pass(t, chat(keyGood, prompt{}))
	if got := a.header.Values("x-request-priority"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("x-request-priority %q, want 2", got)
	}
}
