package ratelimit_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// naive is what a limiter should do, written without regard to speed: it keeps every window for ever.
type naive struct {
	now     time.Time
	maxes   map[string]int64           // by limit, as in "Key Tokens per Hour"
	used    map[string]map[int64]int64 // by counter, then end of the window
	slots   map[string]map[int]time.Time
	settled map[int]time.Time
	learned map[string]naiveRatio // by model
}

// A naiveRatio is how many tokens a byte is taken for.
type naiveRatio struct{ value, samples float64 }

func (n *naive) ratio(model string) naiveRatio {
	if r, ok := n.learned[model]; ok {
		return r
	}
	return naiveRatio{0.25, 0}
}

// learn moves the ratio of a model towards what a request had: by a ninth for the first, by ever less for later ones.
func (n *naive) learn(r *descriptor.Reserve, input int64) {
	if r.InputBytes < 256 || input == 0 {
		return
	}
	known := n.ratio(r.Model)
	sample := min(max(float64(input)/float64(r.InputBytes), 0.1, known.value/2), 0.5, 2*known.value)
	n.learned[r.Model] = naiveRatio{known.value + (sample-known.value)/min(known.samples+9, 128), known.samples + 1}
}

// A naiveLease is one request that was admitted.
type naiveLease struct {
	number  int
	request *descriptor.Reserve
	charged map[string]naiveCharge // by counter
	slots   []string
	lease   string
}

type naiveCharge struct {
	limit       string
	end, amount int64
}

var naiveWindows = map[string]counter.Window{"Second": counter.Second, "Minute": counter.Minute, "Hour": counter.Hour}

// counterOf is whose counter a limit counts in.
func counterOf(limit string, r *descriptor.Reserve) string {
	if strings.HasPrefix(limit, "ModelShared") {
		return limit
	}
	return limit + " of " + keyIn(r)
}

func naiveAmount(limit string, input, output int64) int64 {
	switch {
	case strings.Contains(limit, " Tokens"):
		return input + output
	case strings.Contains(limit, " InputTokens"):
		return input
	case strings.Contains(limit, " OutputTokens"):
		return output
	}
	return 1
}

func (n *naive) end(limit string) int64 {
	_, end := naiveWindows[limit[strings.LastIndex(limit, " ")+1:]].Bounds(n.now)
	return end.Unix()
}

func (n *naive) held(counter string) (held int64) {
	for _, expiry := range n.slots[counter] {
		if expiry.After(n.now) {
			held++
		}
	}
	return held
}

// reserve returns what the request was charged, or nil if it does not fit.
func (n *naive) reserve(number int, r *descriptor.Reserve) *naiveLease {
	l := &naiveLease{number: number, request: r, charged: map[string]naiveCharge{}}
	for limit, most := range n.maxes {
		if strings.HasPrefix(limit, "ModelShared") && r.Model != "gpt-5" {
			continue
		}
		c := counterOf(limit, r)
		if strings.HasSuffix(limit, "ConcurrentRequests") {
			if n.held(c) >= most {
				return nil
			}
			l.slots = append(l.slots, c)
			continue
		}
		input := int64(math.Ceil(float64(r.InputBytes) * n.ratio(r.Model).value))
		amount := min(naiveAmount(limit, input, r.MaxOutput), max(n.most(limit), 1))
		if amount > 0 && n.used[c][n.end(limit)]+amount > most {
			return nil
		}
		l.charged[c] = naiveCharge{limit, n.end(limit), amount}
	}
	for c, charge := range l.charged {
		n.add(c, charge.end, charge.amount)
	}
	for _, c := range l.slots {
		n.take(c, number)
	}
	return l
}

// most is what one request may take: a whole limit, and of what everybody shares no more than a whole limit of its key.
func (n *naive) most(limit string) int64 {
	most := n.maxes[limit]
	if shared, isShared := strings.CutPrefix(limit, "ModelShared "); isShared {
		metric, _, _ := strings.Cut(shared, " ")
		for other, whole := range n.maxes {
			if strings.HasPrefix(other, "Key "+metric+" ") {
				most = min(most, whole)
			}
		}
	}
	return most
}

func (n *naive) add(counter string, end, amount int64) {
	if n.used[counter] == nil {
		n.used[counter] = map[int64]int64{}
	}
	n.used[counter][end] += amount
}

func (n *naive) take(counter string, number int) {
	if n.slots[counter] == nil {
		n.slots[counter] = map[int]time.Time{}
	}
	n.slots[counter][number] = n.now.Add(ratelimit.SlotExpiry)
}

func (n *naive) settle(l *naiveLease, input, output int64) {
	n.learn(l.request, input)
	for c, charge := range l.charged {
		n.add(c, charge.end, naiveAmount(charge.limit, input, output)-charge.amount)
	}
	for _, c := range l.slots {
		delete(n.slots[c], l.number)
	}
	n.settled[l.number] = n.now
}

func (n *naive) renew(l *naiveLease) {
	if at, settled := n.settled[l.number]; settled && n.now.Sub(at) < counter.Remember {
		return
	}
	for _, c := range l.slots {
		n.take(c, l.number)
	}
}

// counts is what the counters of a request should hold.
func (n *naive) counts(r *descriptor.Reserve) map[string]int64 {
	out := map[string]int64{}
	for limit := range n.maxes {
		if strings.HasPrefix(limit, "ModelShared") && r.Model != "gpt-5" {
			continue
		}
		if c := counterOf(limit, r); strings.HasSuffix(limit, "ConcurrentRequests") {
			out[limit] = n.held(c)
		} else {
			out[limit] = n.used[c][n.end(limit)]
		}
	}
	return out
}

// manifests are those that make the limits of the model.
func (n *naive) manifests() string {
	limits := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(n.maxes)) {
		if f := strings.Fields(name); len(f) == 4 {
			limits[f[0]] = append(limits[f[0]], fmt.Sprintf("%s %s %d", f[1], f[3], n.maxes[name]))
		}
	}
	written := func(scope string) string {
		return fmt.Sprintf("%s, concurrency: {max: %d}}", strings.TrimSuffix(rates(limits[scope]...), "}"), n.maxes[scope+" ConcurrentRequests"])
	}
	return "tiers: {plan: {limits: " + written("Key") + "}}\n" +
		"models: {large: {models: [gpt-5], shared: " + written("ModelShared") + "}}\n" +
		"quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: plan}}}"
}

// A run holds a limiter against the model.
type run struct {
	t      *testing.T
	real   *service
	model  *naive
	leases []*naiveLease
	asked  int
}

func newRun(t *testing.T, rt *rapid.T) *run {
	t.Helper()
	r := &run{t: t, model: &naive{
		now: start, maxes: map[string]int64{}, used: map[string]map[int64]int64{},
		slots: map[string]map[int]time.Time{}, settled: map[int]time.Time{}, learned: map[string]naiveRatio{},
	}}
	for limit, most := range map[string]int64{
		"Key Requests per Minute": 12, "Key Tokens per Hour": 2000, "Key InputTokens per Minute": 400, "Key OutputTokens per Second": 300,
		"ModelShared Tokens per Minute": 900, "ModelShared Requests per Second": 9,
		"Key ConcurrentRequests": 4, "ModelShared ConcurrentRequests": 6,
	} {
		r.model.maxes[limit] = rapid.Int64Range(0, most).Draw(rt, limit)
	}
	r.real = serve(t, r.model.manifests())
	return r
}

func (r *run) reserve(rt *rapid.T) {
	request := with(chat(rapid.SampledFrom([]string{"sk-alice", "sk-bob"}).Draw(rt, "key")), func(d *descriptor.Reserve) {
		d.Model = rapid.SampledFrom([]string{"gpt-5", "other"}).Draw(rt, "model")
		d.InputBytes = rapid.Int64Range(0, 1200).Draw(rt, "inputBytes")
		d.MaxOutput = rapid.Int64Range(1, 400).Draw(rt, "maxOutput")
	})
	r.asked++
	want := r.model.reserve(r.asked, request)
	got := r.real.ask(r.t, request)
	if (got.Status == 0) != (want != nil) {
		rt.Fatalf("the limiter answers %d %s, the model admits: %t", got.Status, got.Body, want != nil)
	}
	if want != nil {
		want.lease = got.Lease
		r.leases = append(r.leases, want)
	}
}

// open draws a lease; takeOut ends it.
func (r *run) open(rt *rapid.T, takeOut bool) *naiveLease {
	if len(r.leases) == 0 {
		rt.Skip("nothing is under way")
	}
	i := rapid.IntRange(0, len(r.leases)-1).Draw(rt, "lease")
	l := r.leases[i]
	if takeOut {
		r.leases = slices.Delete(r.leases, i, i+1)
	}
	return l
}

func (r *run) settle(rt *rapid.T) {
	l := r.open(rt, true)
	told := descriptor.Settle{Code: 200, Reported: descriptor.Usage{
		Input: rapid.Int64Range(1, 200).Draw(rt, "input"), Output: rapid.Int64Range(0, 600).Draw(rt, "output"),
	}}
	if rapid.IntRange(0, 4).Draw(rt, "fails") == 0 {
		told = descriptor.Settle{Code: 503}
	}
	r.model.settle(l, told.Reported.Input, told.Reported.Output)
	r.real.end(r.t, ratelimit.Decision{Lease: l.lease}, told)
	if rapid.Bool().Draw(rt, "a late sign of life") {
		r.model.renew(l)
		r.real.renew(r.t, ratelimit.Decision{Lease: l.lease})
	}
}

func (r *run) renew(rt *rapid.T) {
	l := r.open(rt, false)
	r.model.renew(l)
	r.real.renew(r.t, ratelimit.Decision{Lease: l.lease})
}

func (r *run) lose(rt *rapid.T) { r.open(rt, true) }

func (r *run) wait(rt *rapid.T) {
	d := time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(rt, "wait"))
	r.model.now = r.model.now.Add(d)
	r.real.clock.advance(d)
}

func (r *run) edit(rt *rapid.T) {
	limit := rapid.SampledFrom(slices.Sorted(maps.Keys(r.model.maxes))).Draw(rt, "limit")
	r.model.maxes[limit] = rapid.Int64Range(0, 1000).Draw(rt, "max")
	r.real.apply(r.t, r.model.manifests())
}

func (r *run) check(rt *rapid.T) {
	for _, key := range []string{"sk-alice", "sk-bob"} {
		for _, model := range []string{"gpt-5", "other"} {
			request := with(chat(key), func(d *descriptor.Reserve) { d.Model = model })
			want, got := r.model.counts(request), r.real.used(r.t, request)
			if !maps.Equal(want, got) { // It runs thousands of times, and Diff is slow.
				rt.Fatalf("counters of %s for %s at %v (-model +limiter):\n%s", key, model, r.model.now, cmp.Diff(want, got))
			}
		}
	}
}

// Whatever is asked, settled, lost, renewed or edited, one after the other, the limiter does as the model does.
func TestALimiterDoesAsANaiveModelDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRun(t, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": r.reserve, "reserve once more": r.reserve, "settle": r.settle, "renew": r.renew,
			"lose": r.lose, "wait": r.wait, "edit": r.edit, "": r.check,
		})
	})
}
