package descriptor_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// split makes entries of text: "key=value" on each line.
func split(text string) entries {
	var out entries
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		out = append(out, pairs(key, value)...)
	}
	return out
}

func inRange(t *testing.T, name string, n int64) {
	t.Helper()
	if n < 0 || n > 1<<53-1 {
		t.Errorf("%s is %d, want 0 to 2^53-1", name, n)
	}
}

func FuzzDecodeReserve(f *testing.F) {
	f.Add("phase=reserve\nheader.authorization=Bearer sk-1\nquery.key=sk-2\nmodel=gpt-5\nmax_output=1e400\ninput_bytes=-9223372036854775809")
	f.Add("model=\nroute_model=m\nmax_output=0x1p-2\ninput_bytes=Inf\nstream=true\nheader.=\nquery.=")
	f.Add("phase=reserve\nunmetered=true\nprotocol=gemini\nmodel=gpt\x00\nmax_output=1e18\ninput_bytes=1e308\nstream=\"true\"\nunmetered=false")
	f.Fuzz(func(t *testing.T, text string) {
		in := split(text)
		var r descriptor.Reserve
		descriptor.DecodeReserve(in, &r)
		inRange(t, "MaxOutput", r.MaxOutput)
		inRange(t, "InputBytes", r.InputBytes)
		sources := 0
		for _, e := range in {
			if strings.HasPrefix(e.Key, descriptor.KeyHeader) || strings.HasPrefix(e.Key, descriptor.KeyQuery) {
				sources++
			}
		}
		if len(r.Credentials) != sources {
			t.Errorf("%d credentials were read, %d were sent", len(r.Credentials), sources)
		}
		first := see(&r)
		descriptor.DecodeReserve(in, &r)
		if diff := cmp.Diff(first, see(&r)); diff != "" {
			t.Errorf("decoding again differs (-first +again):\n%s", diff)
		}
	})
}

func FuzzDecodeSettle(f *testing.F) {
	f.Add("phase=settle\nlease=AAAA\ncode=200\nflags=16384\noutput_bytes=1e18\ninput_tokens=5\noutput_tokens=6")
	f.Add("cached_tokens=9007199254740992\npartial_cached=-5\npartial_tool_use=1e16\npartial_thoughts=many\nresponse_type=text/event-stream; x=1")
	f.Add("partial_input=9e15\npartial_output=-1\npartial_cache_read=9007199254740991\npartial_cache_write=1e308\npartial_cache_read=1")
	f.Fuzz(func(t *testing.T, text string) {
		s := descriptor.DecodeSettle(split(text))
		for name, n := range map[string]int64{
			"Code": s.Code, "OutputBytes": s.OutputBytes, "Reported.Input": s.Reported.Input,
			"Reported.Output": s.Reported.Output, "Partial.Input": s.Partial.Input, "Partial.Output": s.Partial.Output,
			"Reported.Cached": s.Reported.Cached, "Partial.Cached": s.Partial.Cached,
		} {
			inRange(t, name, n)
		}
	})
}
