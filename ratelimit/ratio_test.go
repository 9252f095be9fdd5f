package ratelimit_test

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// large is more than any test reserves.
var large = rates("Tokens Hour 9007199254740991", "InputTokens Hour 9007199254740991", "OutputTokens Hour 9007199254740991")

// named is a tier of large limits, and ModelLimits that name two models and a family.
var named = oneTier(large) + models

const models = "\nmodels: {one: {models: [gpt-5]}, two: {models: [gpt-4]}, family: {models: [\"claude-*\"]}}"

// sent is a request for a model with a body of so many bytes.
func sent(model string, bytes int64) *descriptor.Reserve {
	return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model, r.InputBytes, r.MaxOutput = model, bytes, 1 })
}

// teach makes requests that turn out to have so many tokens of input.
func (s *service) teach(t testing.TB, n int, r *descriptor.Reserve, told descriptor.Settle) {
	t.Helper()
	for range n {
		s.end(t, s.pass(t, r), told)
	}
}

// reserves is the input that a request for the model reserves, for each 1,000,000 bytes.
func (s *service) reserves(t testing.TB, model string) int64 {
	t.Helper()
	l, err := sealer.Open(s.pass(t, sent(model, 1_000_000)).Lease)
	if err != nil {
		t.Fatal(err)
	}
	return l.Input
}

func told(input int64) descriptor.Settle {
	return descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: input, Output: 1}}
}

func TestAModelIsEstimatedByWhatItsRequestsHad(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	s.teach(t, 1000, sent("gpt-5", 1000), told(400))
	s.teach(t, 1000, sent("claude-3", 1000), told(150))
	s.teach(t, 1000, sent("unheard-of", 1000), told(300))
	got := map[string]int64{}
	for _, model := range []string{"gpt-5", "gpt-4", "claude-3", "claude-2", "unheard-of", "never-heard-of"} {
		got[model] = s.reserves(t, model) / 1000
	}
	want := map[string]int64{"gpt-5": 399, "gpt-4": 250, "claude-3": 150, "claude-2": 150, "unheard-of": 299, "never-heard-of": 299}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b int64) bool { return a-b <= 1 && b-a <= 1 })); diff != "" {
		t.Errorf("tokens reserved for 1,000 bytes (-want +got):\n%s", diff)
	}
}

// One odd request must not decide what everybody reserves, neither as the first nor after many.
func TestOneRequestMovesAnEstimateByLittle(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	s.teach(t, 1, sent("gpt-5", 1000), told(500))
	if got := s.reserves(t, "gpt-5"); got < 250_001 || got > 280_000 {
		t.Errorf("after one request of 0.5 tokens per byte %d are reserved for 1,000,000, want a little more than 250,000", got)
	}
	s.teach(t, 500, sent("gpt-5", 1000), told(250))
	s.teach(t, 1, sent("gpt-5", 1000), told(500))
	if got := s.reserves(t, "gpt-5"); got > 253_000 {
		t.Errorf("after 500 usual requests and an odd one %d are reserved for 1,000,000, want about 252,000", got)
	}
}

func TestWhatTeachesNothing(t *testing.T) {
	t.Parallel()
	usage := descriptor.Usage{Input: 500, Output: 1}
	for name, tc := range map[string]struct {
		change func(*descriptor.Reserve)
		told   descriptor.Settle
	}{
		"a small body":                {func(r *descriptor.Reserve) { r.InputBytes = 255 }, descriptor.Settle{Code: 200, Reported: usage}},
		"an estimate":                 {nil, descriptor.Settle{Code: 200, OutputBytes: 4000}},
		"a failure":                   {nil, descriptor.Settle{Code: 503}},
		"output alone":                {nil, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: 9}}},
		"what comes from a cache":     {nil, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 500, Cached: 1, Output: 1}}},
		"what came before a cut":      {nil, descriptor.Settle{Code: 200, Partial: descriptor.Usage{Input: 500, Cached: 400, Output: 1}}},
		"an opaque request":           {func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolOpaque }, descriptor.Settle{Code: 200, Reported: usage}},
		"sound that is to be written": {func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolOpenAITranscriptions }, descriptor.Settle{Code: 200, Reported: usage}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, named)
			r := sent("gpt-5", 1000)
			if tc.change != nil {
				tc.change(r)
			}
			s.teach(t, 50, r, tc.told)
			if got := s.reserves(t, "gpt-5"); got != 250_000 {
				t.Errorf("%d tokens are reserved for 1,000,000 bytes, want 250,000 as at first", got)
			}
		})
	}
}

// Whatever requests turn out to have, estimates stay within bounds and come nearer to what the latest had.
func TestEstimatesComeNearerWithinBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := serve(t, oneTier("{}")+models)
		for range rapid.IntRange(1, 6).Draw(rt, "phases") {
			bytes := rapid.Int64Range(256, 1<<30).Draw(rt, "bytes")
			input := rapid.OneOf(rapid.Int64Range(1, bytes), rapid.Int64Range(1, 1<<50)).Draw(rt, "input")
			truth := min(max(float64(input)/float64(bytes), 0.1), 0.5)
			before := float64(s.reserves(t, "gpt-5")) / 1_000_000
			s.teach(t, rapid.IntRange(1, 300).Draw(rt, "requests"), sent("gpt-5", bytes), told(input))
			after := float64(s.reserves(t, "gpt-5")) / 1_000_000
			if after < 0.1 || after > 0.5+1e-6 {
				rt.Fatalf("%f tokens are reserved for a byte, want 0.1 to 0.5", after)
			}
			if was, is := math.Abs(before-truth), math.Abs(after-truth); is > was+1e-6 || was > 0.01 && is >= was {
				rt.Fatalf("%f tokens were reserved for a byte, and after %d of %d bytes %f are", before, input, bytes, after)
			}
		}
	})
}

// What was learned belongs to the model, not to a table, nor to a gateway.
func TestWhatWasLearnedOutlivesATable(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	s.teach(t, 100, sent("gpt-5", 1000), told(400))
	before := s.reserves(t, "gpt-5")
	s.apply(t, oneTier(large))
	s.apply(t, named)
	if after := s.reserves(t, "gpt-5"); after != before || after < 300_000 {
		t.Errorf("%d tokens are reserved for 1,000,000 bytes, want %d as before the change", after, before)
	}
}

// What is learned by model is bounded. Names come from objects, never from clients.
func TestTheModelsThatAreLearnedApartAreBounded(t *testing.T) {
	t.Parallel()
	many := "\nmodels:\n"
	for i := range 40 {
		many += fmt.Sprintf("  m%d:\n    models: [", i)
		for j := range 30 {
			many += fmt.Sprintf("m-%d-%d, ", i, j)
		}
		many += "]\n"
	}
	s := serve(t, oneTier(large)+many)
	for i := range 40 {
		for j := range 30 {
			s.teach(t, 1, sent(fmt.Sprintf("m-%d-%d", i, j), 1000), told(400))
		}
	}
	s.teach(t, 1, sent("made up", 1000), told(400))
	labels := map[string]bool{}
	for _, m := range gathered(t, s) {
		labels[m] = true
	}
	if len(labels) != 1001 || !labels["other"] || labels["made up"] {
		t.Errorf("%d models are told apart, want 1,000 and the others", len(labels))
	}
}

// gathered lists the models of which something was learned.
func gathered(t testing.TB, s *service) (models []string) {
	t.Helper()
	for _, f := range s.gather(t) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "model" {
					models = append(models, l.GetValue())
				}
			}
		}
	}
	return models
}

// gather reads all metrics.
func (s *service) gather(t testing.TB) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(s.Limiter); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// measured is the value of a counter or gauge that has these values of labels, in the order of their names; 0 if there is none.
func (s *service) measured(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	for _, f := range s.gather(t) {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func TestManyRequestsLearnAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				d, err := s.Reserve(t.Context(), sent([]string{"gpt-5", "made up"}[i%2], 1000))
				if err != nil {
					t.Errorf("reserving: %v", err)
					return
				}
				of := told(400)
				of.Lease = d.Lease
				if err := s.Settle(t.Context(), &of); err != nil {
					t.Errorf("settling: %v", err)
				}
			}
		})
	}
	all.Wait()
	for _, model := range []string{"gpt-5", "other"} {
		if got := s.reserves(t, model); got < 390_000 || got > 400_000 {
			t.Errorf("%s: %d tokens are reserved for 1,000,000 bytes, want nearly 400,000", model, got)
		}
	}
}

// Whoever lets a model think much and say little must not make the streams of others cost as much.
func TestAFewStreamsDoNotSetTheEstimateForAll(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	stream := with(sent("gpt-5", 100), func(r *descriptor.Reserve) { r.Stream = true })
	silent := descriptor.Settle{Code: 200, ResponseType: "text/event-stream", OutputBytes: 300 + 272*100}
	usual, odd := silent, silent
	usual.Reported = descriptor.Usage{Input: 25, Output: 100}
	odd.OutputBytes, odd.Reported = 3000, descriptor.Usage{Input: 25, Output: 20_000}
	for round := range 200 {
		s.teach(t, 1, stream, odd)
		before := s.used(t, stream)["Key OutputTokens per Hour"]
		s.teach(t, 1, stream, silent)
		if charged := s.used(t, stream)["Key OutputTokens per Hour"] - before; charged > 200 {
			t.Fatalf("in round %d %d tokens are charged for a stream of 100", round, charged)
		}
		s.teach(t, 3, stream, usual)
	}
}

// Of a stream with reasoning nobody knows how much of its output is in its bytes.
func TestWhoeverLetsAModelThinkDoesNotMakeOthersPay(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	stream := with(sent("gpt-5", 100), func(r *descriptor.Reserve) { r.Stream = true })
	s.teach(t, 1000, stream, descriptor.Settle{
		Code: 200, ResponseType: "text/event-stream", OutputBytes: 3000, Reported: descriptor.Usage{Input: 25, Output: 5000}, Thoughts: 4990,
	})
	before := s.used(t, stream)["Key OutputTokens per Hour"]
	s.teach(t, 1, stream, descriptor.Settle{Code: 200, ResponseType: "text/event-stream", OutputBytes: 300 + 272*100})
	if charged := s.used(t, stream)["Key OutputTokens per Hour"] - before; charged != 100 {
		t.Errorf("%d tokens are charged for a stream of 100", charged)
	}
}

// What a stream brings is estimated by what streams of its model brought, where the provider says nothing.
func TestStreamsAreEstimatedByWhatTheModelsStreamsHad(t *testing.T) {
	t.Parallel()
	s := serve(t, named)
	streamOf := func(model string) *descriptor.Reserve {
		return with(sent(model, 100), func(r *descriptor.Reserve) { r.Stream = true })
	}
	silent := descriptor.Settle{Code: 200, ResponseType: "text/event-stream", OutputBytes: 300 + 272*100}
	reported := silent
	reported.Reported = descriptor.Usage{Input: 25, Output: 200} // two tokens in each event
	charged := func(model string) int64 {
		before := s.used(t, sent(model, 100))["Key OutputTokens per Hour"]
		s.teach(t, 1, streamOf(model), silent)
		return s.used(t, sent(model, 100))["Key OutputTokens per Hour"] - before
	}
	if got := charged("gpt-5"); got != 100 {
		t.Errorf("at first %d tokens are charged, want 100", got)
	}
	s.teach(t, 1000, streamOf("gpt-5"), reported)
	if got := charged("gpt-5"); got < 195 || got > 200 {
		t.Errorf("after 1,000 streams with 200 tokens %d are charged, want nearly 200", got)
	}
	if got := charged("gpt-4"); got != 100 {
		t.Errorf("of a model without streams %d tokens are charged, want 100", got)
	}
}
