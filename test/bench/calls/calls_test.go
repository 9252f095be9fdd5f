package calls_test

import (
	"encoding/binary"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/test/bench/calls"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
)

// decode reads the message of a call.
func decode(t *testing.T, c *load.Call) *rlsv3.RateLimitRequest {
	t.Helper()
	var r rlsv3.RateLimitRequest
	if len(c.Body) < 5 || c.Body[0] != 0 || int(binary.BigEndian.Uint32(c.Body[1:])) != len(c.Body)-5 {
		t.Fatalf("%x does not begin as gRPC does", c.Body)
	}
	if err := proto.Unmarshal(c.Body[5:], &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func answer(t *testing.T, r *rlsv3.RateLimitResponse) *load.Answer {
	t.Helper()
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), r)
	if err != nil {
		t.Fatal(err)
	}
	return &load.Answer{Status: "200", GRPCStatus: "0", Body: body}
}

// told is what the only descriptor of a call tells.
func told(t *testing.T, c *load.Call) map[string]string {
	t.Helper()
	r := decode(t, c)
	if r.GetDomain() != descriptor.Domain || len(r.GetDescriptors()) != 1 {
		t.Fatalf("a call in the domain %q has %d descriptors", r.GetDomain(), len(r.GetDescriptors()))
	}
	all := map[string]string{}
	for _, e := range r.GetDescriptors()[0].GetEntries() {
		all[e.GetKey()] = e.GetValue()
	}
	return all
}

func TestAReserveTellsWhatEnvoyTells(t *testing.T) {
	t.Parallel()
	call, err := calls.GRPC(calls.Reserve("sk-1", 258))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"phase": "reserve", "header.authorization": "Bearer sk-1", "header.x-api-key": "", "remote_address": "10.0.1.2",
		"gateway": calls.Gateway, "resource": "chat", "protocol": "openai-chat", "model": calls.Model,
		"max_output": "1024", "input_bytes": "1991", "stream": "true",
	}
	if diff := cmp.Diff(want, told(t, &call)); diff != "" {
		t.Errorf("the reserve (-want +got):\n%s", diff)
	}
}

func TestASettleBringsTheLeaseBack(t *testing.T) {
	t.Parallel()
	outcome, settle := calls.ReadAndSettle(answer(t, &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			descriptor.KeyLease: structpb.NewStringValue("the-lease"),
		}},
	}))
	if outcome != load.Admitted || settle == nil {
		t.Fatalf("the outcome is %d, and %v follows", outcome, settle)
	}
	want := map[string]string{
		"phase": "settle", "lease": "the-lease", "code": "200", "output_bytes": "5210", "response_type": "text/event-stream",
		"input_tokens": "412", "output_tokens": "380",
	}
	if diff := cmp.Diff(want, told(t, settle)); diff != "" {
		t.Errorf("the settle (-want +got):\n%s", diff)
	}
	if _, settle := calls.ReadAndSettle(answer(t, &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK})); settle != nil {
		t.Error("a settle follows where there is no lease")
	}
}

func TestAPeerIsAskedForAsManyLimits(t *testing.T) {
	t.Parallel()
	got := calls.Descriptors("below", "sk-1", 2)
	call, err := calls.GRPC(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, decode(t, &call), protocmp.Transform()); diff != "" {
		t.Errorf("the call (-want +got):\n%s", diff)
	}
	for i, d := range got.GetDescriptors() {
		if e := d.GetEntries(); len(e) != 1 || e[0].GetKey() != calls.DescriptorKey("below", i) || e[0].GetValue() != "sk-1" {
			t.Errorf("descriptor %d is %v", i, d)
		}
	}
}

func TestAnswersAreTakenForWhatTheyAre(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer *load.Answer
		want   load.Outcome
	}{
		"admitted": {answer(t, &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}), load.Admitted},
		"refused": {answer(t, &rlsv3.RateLimitResponse{
			OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT, RawBody: []byte("{}"),
			ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "retry-after", Value: "1"}},
		}), load.Refused},
		"unknown":      {answer(t, &rlsv3.RateLimitResponse{}), load.Failed},
		"an error":     {&load.Answer{Status: "200", GRPCStatus: "14"}, load.Failed},
		"no message":   {&load.Answer{Status: "200", GRPCStatus: "0"}, load.Failed},
		"cut off":      {&load.Answer{GRPCStatus: "0", Body: []byte{0, 0, 0, 0, 9, 8, 1, 18, 200}}, load.Failed},
		"without HTTP": {&load.Answer{}, load.Failed},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, _ := calls.Read(tc.answer); got != tc.want {
				t.Errorf("the outcome is %d, want %d", got, tc.want)
			}
		})
	}
	for status, want := range map[string]load.Outcome{"200": load.Admitted, "429": load.Refused, "503": load.Failed, "": load.Failed} {
		if got, _ := calls.ReadHTTP(&load.Answer{Status: status}); got != want {
			t.Errorf("HTTP status %q: the outcome is %d, want %d", status, got, want)
		}
	}
}

// What protobuf can read is read as protobuf reads it, and nothing makes the reader fail.
func FuzzReadAgreesWithProtobuf(f *testing.F) {
	for _, code := range []rlsv3.RateLimitResponse_Code{rlsv3.RateLimitResponse_OK, rlsv3.RateLimitResponse_OVER_LIMIT} {
		b, err := proto.Marshal(&rlsv3.RateLimitResponse{OverallCode: code, DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			descriptor.KeyLease: structpb.NewStringValue("l"),
		}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		got, _ := calls.ReadAndSettle(&load.Answer{GRPCStatus: "0", Body: append(make([]byte, 5), message...)})
		var read rlsv3.RateLimitResponse
		if proto.Unmarshal(message, &read) != nil {
			return
		}
		want := load.Failed
		switch read.GetOverallCode() { //nolint:exhaustive // All others are failures.
		case rlsv3.RateLimitResponse_OK:
			want = load.Admitted
		case rlsv3.RateLimitResponse_OVER_LIMIT:
			want = load.Refused
		}
		if got != want {
			t.Errorf("%x is taken for %d, and is %d", message, got, want)
		}
	})
}
