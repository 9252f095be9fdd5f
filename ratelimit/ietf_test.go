package ratelimit

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// An item is one of a list: a name and its parameters, of which those that must be integers are.
type item struct {
	Name    string
	Numbers map[string]int64
	Unit    string
}

// items reads a list with a library that knows RFC 9651 and nothing of us.
func items(t testing.TB, value string) []item {
	t.Helper()
	list, err := httpsfv.UnmarshalList([]string{value})
	if err != nil {
		t.Fatalf("%s is no list: %v", value, err)
	}
	if again, err := httpsfv.Marshal(list); err != nil || again != value {
		t.Errorf("%s is written as %s (%v)", value, again, err)
	}
	out := make([]item, 0, len(list))
	for _, member := range list {
		m, ok := member.(httpsfv.Item)
		if !ok {
			t.Fatalf("%s has a member that is no item", value)
		}
		i := item{Name: m.Value.(string), Numbers: map[string]int64{}} //nolint:forcetypeassert // The draft wants a String.
		for _, name := range m.Params.Names() {
			switch v, _ := m.Params.Get(name); v := v.(type) {
			case int64:
				i.Numbers[name] = v
			case string:
				i.Unit = v
			default:
				t.Errorf("%s: %s is %v", value, name, v)
			}
		}
		out = append(out, i)
	}
	return out
}

// checkStructured compares what the library reads with what a client is to be told, worked out without any cleverness.
func checkStructured(t testing.TB, r *report, window policy.Per, denied *int) {
	t.Helper()
	var quotas, left []item
	for metric := policy.Requests; metric <= policy.ConcurrentRequests; metric++ {
		i := naiveChoice(r, metric, window, denied)
		if i < 0 {
			continue
		}
		l := r.plan.limits[i]
		name := [...]string{"", "requests", "tokens", "input-tokens", "output-tokens", "concurrent-requests"}[metric]
		q := item{name, map[string]int64{"q": min(l.Max, 999999999999999)}, name}
		rest := item{name, map[string]int64{"r": max(0, min(l.Max-r.counts[i].Used, 999999999999999))}, ""}
		if metric == policy.Requests {
			q.Unit = ""
		}
		if metric != policy.ConcurrentRequests {
			last := r.counts[i].Reset.Add(-1)
			month := int64(time.Date(last.Year(), last.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()) * 86400
			q.Numbers["w"] = [...]int64{0, 1, 60, 3600, 86400, month}[l.Pair.Per]
			rest.Numbers["t"] = int64(math.Ceil(float64(r.counts[i].Reset.Sub(r.now)) / float64(time.Second)))
			q.Name += [...]string{"", "-second", "-minute", "-hour", "-day", "-month"}[l.Pair.Per]
			rest.Name = q.Name
		}
		quotas, left = append(quotas, q), append(left, rest)
	}
	var told headers
	r.ietf(&told, window, denied)
	got := told.list()
	if len(quotas) == 0 {
		if len(got) != 0 {
			t.Errorf("where there is no limit there is %v", got)
		}
		return
	}
	if len(got) != 2 || got[0].Name != "RateLimit-Policy" || got[1].Name != "RateLimit" {
		t.Fatalf("got the headers %v", got)
	}
	if diff := gocmp.Diff(quotas, items(t, got[0].Value)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", got[0].Value, diff)
	}
	if diff := gocmp.Diff(left, items(t, got[1].Value)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", got[1].Value, diff)
	}
}

func naiveChoice(r *report, metric policy.Metric, window policy.Per, denied *int) int {
	if denied != nil && r.plan.limits[*denied].Pair.Metric == metric {
		return *denied
	}
	var able []int
	for i, l := range r.plan.limits {
		if l.Pair.Metric == metric && (window == policy.NoPer || metric == policy.ConcurrentRequests || l.Pair.Per == window) {
			able = append(able, i)
		}
	}
	if len(able) == 0 {
		return -1
	}
	return slices.MinFunc(able, func(a, b int) int {
		return cmp.Or(cmp.Compare(r.plan.limits[a].Pair.Per, r.plan.limits[b].Pair.Per), cmp.Compare(r.remaining(a), r.remaining(b)))
	})
}

// limitBytes is how much limitOf reads.
const limitBytes = 26

// reportOf makes a report of any bytes: of limits and counts as they can be.
func reportOf(at int64, data []byte) *report {
	const years = 300 * 366 * 24 * 3600
	r := &report{plan: &plan{shape: newShape(nil)}, now: time.Unix((at/1e9%years+years)%years, at%1e9).UTC()}
	for ; len(data) >= limitBytes && len(r.plan.limits) < counter.MaxLimits; data = data[limitBytes:] {
		r.add(policy.Metric(data[0]%5)+policy.Requests, policy.Per(data[1]%5)+policy.Second,
			int64(binary.LittleEndian.Uint64(data[2:])>>1), int64(binary.LittleEndian.Uint64(data[10:])>>1),
			binary.LittleEndian.Uint64(data[18:]))
	}
	return r
}

// add gives the report a limit whose window goes on for a while, at most to its end.
func (r *report) add(metric policy.Metric, per policy.Per, most, used int64, while uint64) {
	c := counter.Count{Used: used}
	if metric == policy.ConcurrentRequests {
		per = policy.NoPer
	} else {
		_, end := windows[span{per, policy.FixedWindow}].Bounds(r.now)
		c.Reset = r.now.Add(1 + time.Duration(while%uint64(end.Sub(r.now)))) //nolint:gosec // Windows are shorter than 292 years.
	}
	r.plan.shape = newShape(append(r.plan.limits, policy.Limit{Pair: policy.Pair{Metric: metric, Per: per}, Max: most}))
	r.counts = append(r.counts, c)
}

// deniedBy is the number of a limit, or nil.
func (r *report) deniedBy(n uint8) *int {
	if len(r.plan.limits) == 0 || n%2 == 0 {
		return nil
	}
	i := int(n/2) % len(r.plan.limits)
	return &i
}

func TestStructuredHeadersAreReadAsTheyAreMeant(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var data [8 + 12*limitBytes]byte
	for range 5000 {
		for i := 0; i < len(data); i += 8 {
			binary.LittleEndian.PutUint64(data[i:], random.Uint64())
		}
		limits := data[8 : 8+random.IntN(13)*limitBytes]
		for i := 0; i < len(limits); i += limitBytes {
			shrink(random, limits[i+2:i+10])
			shrink(random, limits[i+10:i+18])
		}
		r := reportOf(random.Int64(), limits)
		checkStructured(t, r, policy.Per(data[0]%6), r.deniedBy(data[1]))
		if t.Failed() {
			t.FailNow()
		}
	}
}

// shrink makes small numbers as likely as large ones.
func shrink(random *rand.Rand, number []byte) {
	binary.LittleEndian.PutUint64(number, binary.LittleEndian.Uint64(number)>>random.IntN(64))
}

func FuzzStructuredHeaders(f *testing.F) {
	f.Fuzz(func(t *testing.T, at int64, window, denied uint8, data []byte) {
		r := reportOf(at, data)
		checkStructured(t, r, policy.Per(window%6), r.deniedBy(denied))
	})
}

// The room of ietf holds the longest items that there are.
func TestStructuredHeadersAllocateNothing(t *testing.T) {
	r := &report{plan: &plan{shape: newShape(nil)}, now: time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)}
	for metric := policy.Requests; metric <= policy.ConcurrentRequests; metric++ {
		r.add(metric, policy.Month, math.MaxInt64, 0, 0)
		if c := &r.counts[len(r.counts)-1]; !c.Reset.IsZero() {
			c.Reset = time.Date(2024, time.February, 1, 0, 0, 0, 0, time.UTC)
		}
	}
	checkStructured(t, r, policy.NoPer, nil)
	var out headers
	if n := testing.AllocsPerRun(100, func() { out.fields = out.fields[:0]; r.ietf(&out, policy.NoPer, nil) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
