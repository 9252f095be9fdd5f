package descriptor_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

type entries = []descriptor.Entry

// pairs writes entries as key, value, key, value.
func pairs(list ...string) entries {
	var out entries
	for i := 0; i+1 < len(list); i += 2 {
		out = append(out, descriptor.Entry{Key: list[i], Value: list[i+1]})
	}
	return out
}

// seen is a Reserve whose credentials show their values.
type seen struct {
	descriptor.Reserve

	Credentials []string
}

func see(r *descriptor.Reserve) seen {
	s := seen{Reserve: *r}
	s.Reserve.Credentials = nil
	for _, c := range r.Credentials {
		s.Credentials = append(s.Credentials, c.Header+"|"+c.Query+"|"+c.Reveal())
	}
	return s
}

func TestAReserveSaysWhatEnvoyKnows(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   entries
		want seen
	}{
		"everything": {
			pairs("phase", "reserve", "header.authorization", "Bearer sk-1", "header.x-api-key", "sk-2", "query.key", "sk-3",
				"remote_address", "2001:db8::1", "gateway", "team/edge", "resource", "chat", "protocol", "anthropic",
				"route_model", "of-the-route", "model", "of-the-body", "max_output", "500", "input_bytes", "2000", "stream", "true"),
			seen{
				descriptor.Reserve{
					Client: "2001:db8::1", Gateway: "team/edge", Resource: "chat", Protocol: descriptor.ProtocolAnthropic,
					Model: "of-the-body", MaxOutput: 500, InputBytes: 2000, Stream: true,
				},
				[]string{"authorization||Bearer sk-1", "x-api-key||sk-2", "|key|sk-3"},
			},
		},
		"nothing": {nil, seen{}},
		"the route's model where the body tells none": {pairs("route_model", "m"), seen{descriptor.Reserve{Model: "m"}, nil}},
		"the route's model where the body's is empty": {pairs("model", "", "route_model", "m"), seen{descriptor.Reserve{Model: "m"}, nil}},
		"the body's model in any order":               {pairs("model", "b", "route_model", "r"), seen{descriptor.Reserve{Model: "b"}, nil}},
		"what a newer Envoy configuration adds":       {pairs("new", "1", "headers", "2", "resource", "chat"), seen{descriptor.Reserve{Resource: "chat"}, nil}},
		"no stream":                                   {pairs("stream", "false"), seen{}},
		"a route that is not metered":                 {pairs("unmetered", "true"), seen{descriptor.Reserve{Unmetered: true}, nil}},
		"such a flag that is no flag":                 {pairs("unmetered", "1"), seen{}},
		"a stream flag that is no flag":               {pairs("stream", "TRUE"), seen{}},
		"numbers that are none":                       {pairs("max_output", "many", "input_bytes", "-5"), seen{}},
		"an empty credential":                         {pairs("header.x-api-key", ""), seen{Credentials: []string{"x-api-key||"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got descriptor.Reserve
			descriptor.DecodeReserve(tc.in, &got)
			if diff := cmp.Diff(tc.want, see(&got)); diff != "" {
				t.Errorf("reserve (-want +got):\n%s", diff)
			}
		})
	}
}

func TestADecodedReserveKeepsNothingOfTheLast(t *testing.T) {
	t.Parallel()
	var r descriptor.Reserve
	descriptor.DecodeReserve(pairs("header.a", "1", "query.b", "2", "model", "m", "gateway", "g", "resource", "r", "protocol", "p",
		"remote_address", "c", "max_output", "1", "input_bytes", "2", "stream", "true", "unmetered", "true"), &r)
	descriptor.DecodeReserve(pairs("header.x-api-key", "3"), &r)
	if diff := cmp.Diff(seen{Credentials: []string{"x-api-key||3"}}, see(&r)); diff != "" {
		t.Errorf("reserve (-want +got):\n%s", diff)
	}
}

func TestASettleSaysHowAStreamEnded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   entries
		want descriptor.Settle
	}{
		"everything": {
			pairs("phase", "settle", "lease", "AbC-_", "code", "200", "flags", "16384", "output_bytes", "900", "usage_status", "ok",
				"response_type", "application/json", "input_tokens", "80", "cached_tokens", "30", "output_tokens", "50", "thoughts", "15",
				"partial_input", "90", "partial_cached", "20", "partial_output", "1"),
			descriptor.Settle{
				Lease: "AbC-_", Code: 200, OutputBytes: 900, ResponseType: "application/json",
				Reported: descriptor.Usage{Input: 80, Cached: 30, Output: 50}, Thoughts: 15, Partial: descriptor.Usage{Input: 90, Cached: 20, Output: 1},
			},
		},
		"nothing": {nil, descriptor.Settle{}},
		"what Anthropic counts apart belongs to the input": {
			pairs("partial_cache_read", "1000", "partial_input", "7", "partial_cache_write", "200"),
			descriptor.Settle{Partial: descriptor.Usage{Input: 1207, Cached: 1000}},
		},
		"all of Anthropic's input was cached": {
			pairs("partial_cache_read", "1000", "partial_input", "0"), descriptor.Settle{Partial: descriptor.Usage{Input: 1000, Cached: 1000}},
		},
		"what Gemini counts apart belongs to input and output": {
			pairs("partial_input", "90", "partial_tool_use", "10", "partial_cached", "40", "partial_output", "20", "partial_thoughts", "5"),
			descriptor.Settle{Partial: descriptor.Usage{Input: 100, Cached: 40, Output: 25}},
		},
		"the most that is believed": {
			pairs("input_tokens", "1073741824", "output_tokens", "1073741825", "partial_cache_read", "1073741824", "partial_input", "1073741824"),
			descriptor.Settle{Reported: descriptor.Usage{Input: 1 << 30}, Partial: descriptor.Usage{Input: 1 << 31, Cached: 1 << 30}, Absurd: true},
		},
		"what is absurd is as good as nothing": {
			pairs("input_tokens", "1e300", "output_tokens", "-7", "partial_input", "9007199254740991", "partial_output", "99999999999999999999"),
			descriptor.Settle{Absurd: true},
		},
		"a number below zero is absurd": {pairs("input_tokens", "5", "output_tokens", "-1"), descriptor.Settle{Reported: descriptor.Usage{Input: 5}, Absurd: true}},
		"no status":                     {pairs("code", ""), descriptor.Settle{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, descriptor.DecodeSettle(tc.in)); diff != "" {
				t.Errorf("settle (-want +got):\n%s", diff)
			}
		})
	}
}

// Envoy writes what JSON says as it finds it: whole numbers, floating point, and anything that a client made up.
func TestANumberIsNeverNegativeAndNeverTooLarge(t *testing.T) {
	t.Parallel()
	const most = 1<<53 - 1
	for written, want := range map[string]int64{
		"0": 0, "1": 1, "1024": 1024, "-1": 0, "": 0, " 5": 0, "five": 0, "5 tokens": 0, "NaN": 0, "-Inf": 0, "-1e400": 0,
		"12.0": 12, "12.1": 13, "0.5": 1, "-0.5": 0, "1e3": 1000, "1.5e3": 1500, "1e-400": 0,
		"9007199254740991": most, "9007199254740992": most, "9223372036854775807": most, "9223372036854775808": most,
		"-9223372036854775809": 0, "1e300": most, "1e400": most, strings.Repeat("9", 400): most, "-" + strings.Repeat("9", 400): 0,
	} {
		t.Run(strconv.Quote(written), func(t *testing.T) {
			t.Parallel()
			var r descriptor.Reserve
			descriptor.DecodeReserve(pairs("max_output", written), &r)
			if r.MaxOutput != want {
				t.Errorf("got %d, want %d", r.MaxOutput, want)
			}
		})
	}
}

func TestThePhaseIsTheFirstThatIsSaid(t *testing.T) {
	t.Parallel()
	for want, in := range map[string]entries{
		"":        pairs("lease", "phase"),
		"reserve": pairs("model", "settle", "phase", "reserve"),
		"settle":  pairs("phase", "settle", "phase", "reserve"),
	} {
		if got := descriptor.Phase(in); got != want {
			t.Errorf("the phase of %v is %q, want %q", in, got, want)
		}
	}
}

func TestDecodingIntoAUsedReserveAllocatesNothing(t *testing.T) {
	in := pairs("phase", "reserve", "header.authorization", "Bearer sk-1", "header.x-api-key", "", "gateway", "team/edge",
		"resource", "chat", "protocol", "openai-chat", "model", "gpt-5", "max_output", "500", "input_bytes", "2000", "stream", "true")
	var r descriptor.Reserve
	descriptor.DecodeReserve(in, &r)
	if n := testing.AllocsPerRun(100, func() { descriptor.DecodeReserve(in, &r) }); n != 0 {
		t.Errorf("decoding makes %v allocations, want none", n)
	}
}

func BenchmarkDecodeReserve(b *testing.B) {
	in := pairs("phase", "reserve", "header.authorization", "Bearer sk-1", "header.x-api-key", "", "gateway", "team/edge",
		"resource", "chat", "protocol", "openai-chat", "model", "gpt-5", "max_output", "500", "input_bytes", "2000", "stream", "true")
	var r descriptor.Reserve
	b.ReportAllocs()
	for b.Loop() {
		descriptor.DecodeReserve(in, &r)
	}
}

// A status without a name would leave Google's clients with an error they cannot tell.
func TestEveryStatusHasAGoogleName(t *testing.T) {
	t.Parallel()
	for _, status := range descriptor.DenyStatuses {
		if descriptor.GoogleStatuses[status] == "" {
			t.Errorf("no name for %d", status)
		}
	}
}
