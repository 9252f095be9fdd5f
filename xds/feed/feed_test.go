package feed_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// holds compares what a client has in force with what was published.
func (f *follower) holds(t rapid.TB, want *policy.Table) {
	t.Helper()
	got := f.table()
	if diff := cmp.Diff(served(t, want), served(t, got)); diff != "" {
		t.Fatalf("in force (-published +obeyed):\n%s", diff)
	}
	if want.Version() != got.Version() {
		t.Fatalf("the version is %s, want %s", got.Version(), want.Version())
	}
}

func TestEveryTableArrivesWhole(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	f := follow(t, b, o.config("service-0", ""))
	for i, name := range exampleNames() {
		mark := uint64(i + 1)
		o.Publish(examples()[name], mark)
		o.waitFor(t, "service-0", mark)
		if diff := cmp.Diff(served(t, examples()[name]), served(t, f.table())); diff != "" {
			t.Errorf("%s (-published +obeyed):\n%s", name, diff)
		}
	}
}

func TestAChangeOfOneQuotaIsOneMessage(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	in := customers(100)
	o.Publish(compile(in), 1)
	early := follow(t, b, o.config("early", ""))
	o.waitFor(t, "early", 1)
	o.told()
	for mark, tc := range []struct {
		change     func()
		set, unset []string
	}{
		2: {func() { in.Quotas[3].Spec.DesiredState = v1alpha1.DesiredStateSuspended }, []string{"ApiKeyQuota/team-3/key-3"}, nil},
		3: {func() { in.Tiers[1].Spec.Limits = limit(7) }, []string{"RateLimitTier//tier-1"}, nil},
		4: {func() { in.Quotas = slices.Delete(in.Quotas, 5, 6) }, nil, []string{"ApiKeyQuota/team-5/key-5"}},
		5: {func() {}, nil, nil},
	} {
		if mark < 2 {
			continue
		}
		tc.change()
		table := compile(in)
		o.Publish(table, uint64(mark))
		o.waitFor(t, "early", uint64(mark))
		set, unset := o.told()
		if diff := cmp.Diff([][]string{tc.set, tc.unset}, [][]string{set, unset}); diff != "" {
			t.Errorf("at mark %d (-want +told):\n%s", mark, diff)
		}
		early.holds(t, table)
	}
	late := follow(t, b, o.config("late", ""))
	o.waitFor(t, "late", 5)
	late.holds(t, compile(in))
	if diff := cmp.Diff([]feed.Client{{Node: "early", Mark: 5}, {Node: "late", Mark: 5}}, o.Clients()); diff != "" {
		t.Errorf("clients (-want +got):\n%s", diff)
	}
}

// A quota that is told before its tier must wait for it, and is made twice.
func TestWhatQuotasReferToIsToldFirst(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	o.Publish(compile(customers(10)), 1)
	follow(t, b, o.config("service-0", ""))
	o.waitFor(t, "service-0", 1)
	var quotas []bool
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.said[0].GetResources() {
		quotas = append(quotas, strings.HasPrefix(r.GetName(), policy.KindQuota))
	}
	if diff := cmp.Diff(append(make([]bool, 2), slices.Repeat([]bool{true}, 10)...), quotas); diff != "" {
		t.Errorf("which of the parts are quotas (-want +told):\n%s", diff)
	}
}

func TestATableIsInForceOnlyOnceItIsComplete(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	f := follow(t, b, o.config("service-0", ""))
	o.wait(t, "the client is there", func() bool { return len(o.Clients()) == 1 })
	if c := o.Clients()[0]; c.Mark != 0 {
		t.Errorf("nothing was published, and the client is at mark %d", c.Mark)
	}
	const n = 5000
	table := compile(customers(n))
	o.Publish(table, 7)
	o.waitFor(t, "service-0", 7)
	f.holds(t, table)
	if len(f.tables) != 1 {
		t.Errorf("%d tables were in force on the way", len(f.tables))
	}
	var versions []string
	for _, r := range o.said {
		versions = append(versions, r.GetSystemVersionInfo())
		if len(r.GetResources()) > 2000 {
			t.Errorf("%d resources in one message", len(r.GetResources()))
		}
	}
	if diff := cmp.Diff([]string{"", "", table.Version()}, versions); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	var want []string
	for i := range versions {
		want = append(want, fmt.Sprint("sent ", i+1), fmt.Sprint("acknowledged ", i+1))
	}
	if diff := cmp.Diff(want, o.events); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestWhoComesBackIsToldTheDifference(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]bool{"from a file": true, "to a server that was away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBell()
			o := start(t, b)
			in := customers(50)
			o.Publish(compile(in), 1)
			path := ""
			if file {
				path = filepath.Join(t.TempDir(), "policy.db")
			}
			f := follow(t, b, o.config("service-0", path))
			o.waitFor(t, "service-0", 1)
			if file {
				f.stop()
			}
			o.stop()
			in.Quotas = slices.Delete(in.Quotas, 4, 6)
			in.Quotas[0].Spec.DesiredState = v1alpha1.DesiredStateSuspended
			in.Tiers[0].Spec.Limits = limit(90)
			o = startAt(t, b, o.address)
			table := compile(in)
			o.Publish(table, 12)
			if file {
				f = follow(t, b, o.config("service-0", path))
			}
			o.waitFor(t, "service-0", 12)
			f.holds(t, table)
			set, gone := o.told()
			want := [][]string{{"ApiKeyQuota/team-0/key-0", "RateLimitTier//tier-0"}, {"ApiKeyQuota/team-4/key-4", "ApiKeyQuota/team-5/key-5"}}
			if diff := cmp.Diff(want, [][]string{set, gone}); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoHasEverythingIsToldSo(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	table := compile(customers(50))
	o.Publish(table, 1)
	f := follow(t, b, o.config("service-0", ""))
	o.waitFor(t, "service-0", 1)
	o.stop()
	o = startAt(t, b, o.address)
	o.Publish(table, 3)
	o.waitFor(t, "service-0", 3)
	if set, gone := o.told(); len(set)+len(gone) > 0 {
		t.Errorf("told %v and %v", set, gone)
	}
	if len(f.tables) != 1 {
		t.Errorf("%d tables were obeyed, and nothing has changed", len(f.tables))
	}
}

// TestWhoHasMuchSaysSoInSeveralMessages has more to say of what it holds than a server takes in one message by itself.
func TestWhoHasMuchSaysSoInSeveralMessages(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	in := customers(9000)
	for i := range in.Quotas {
		in.Quotas[i].Namespace = strings.Repeat("n", 250)
		in.Quotas[i].Name = fmt.Sprint(strings.Repeat("q", 240), i)
	}
	table := compile(in)
	o.Publish(table, 1)
	follow(t, b, o.config("service-0", ""))
	o.waitFor(t, "service-0", 1)
	o.stop()
	o = startAt(t, b, o.address)
	o.Publish(table, 2)
	o.waitFor(t, "service-0", 2)
	if set, gone := o.told(); len(set)+len(gone) > 0 {
		t.Errorf("%d and %d were told", len(set), len(gone))
	}
	if o.greetings < 5 {
		t.Errorf("%d messages say what is there already", o.greetings)
	}
}

func TestAServiceStartsWithItsLastTable(t *testing.T) {
	t.Parallel()
	b, path := newBell(), filepath.Join(t.TempDir(), "policy.db")
	o := start(t, b)
	in := customers(50)
	o.Publish(compile(in), 1)
	f := follow(t, b, o.config("service-0", path))
	o.waitFor(t, "service-0", 1)
	in.Quotas = in.Quotas[:40]
	table := compile(in)
	o.Publish(table, 2)
	o.waitFor(t, "service-0", 2)
	f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	f.stop()
	o.stop()

	again := follow(t, b, o.config("service-0", path))
	again.wait(t, "a table is in force", func() bool { return again.table() != nil })
	again.holds(t, table)
	again.wait(t, "it says so", func() bool { return again.status() == feed.Status{Table: true, Down: noon} })
}

func TestTheStatusTellsSinceWhenTheServerIsAway(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	o.Publish(compile(customers(1)), 1)
	var log logbook
	c := o.config("service-0", "")
	c.Log = log.log()
	f := follow(t, b, c)
	f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	o.stop()
	f.wait(t, "the client is down", func() bool { return f.status() == feed.Status{Table: true, Down: noon} })
	if !log.has("the policy server is not followed: what it told last holds") {
		t.Errorf("the log says %s", log.lines.String())
	}
}

// The connection stays open, and nothing says that the machine at its other end is gone.
func TestAServerThatHangsIsAway(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	o.Publish(compile(customers(1)), 1)
	between := newRelay(t, o.address)
	c := o.config("service-0", "")
	c.Address = between.address
	f := follow(t, b, c)
	f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	between.hang()
	f.wait(t, "the client is down", func() bool { return f.status() == feed.Status{Table: true, Down: noon} })
	o.Publish(compile(customers(2)), 2)
	between.goOn()
	o.waitFor(t, "service-0", 2)
	f.wait(t, "the client is up again", func() bool { return f.status() == feed.Status{Table: true} })
}

func TestAnEarlierConnectionOfANodeDoesNotCount(t *testing.T) {
	t.Parallel()
	b := newBell()
	o := start(t, b)
	first := follow(t, b, o.config("service-0", ""))
	o.wait(t, "the client is there", func() bool { return len(o.Clients()) == 1 })
	follow(t, b, o.config("service-0", ""))
	o.Publish(compile(customers(1)), 1)
	o.waitFor(t, "service-0", 1)
	first.wait(t, "the first is told, too", func() bool { return first.table() != nil })
	if got := o.Clients(); len(got) != 1 {
		t.Errorf("clients are %v", got)
	}
}

func TestFollowRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config feed.ClientConfig
		want   string
	}{
		"no address":                         {feed.ClientConfig{Node: "a"}, "following the policy server: Address is empty; give the address of the operator"},
		"no node":                            {feed.ClientConfig{Address: "127.0.0.1:1"}, "following the policy server: Node is empty; give this replica a name that no other has"},
		"plain text to another machine":      {feed.ClientConfig{Address: "10.0.0.7:1", Node: "a"}, "following the policy server: 10.0.0.7:1 is on another machine; give a certificate and the authority of the server's"},
		"plain text to a name":               {feed.ClientConfig{Address: "operator:1", Node: "a"}, "following the policy server: operator:1 is on another machine; give a certificate and the authority of the server's"},
		"an address that is none, elsewhere": {feed.ClientConfig{Address: "localhost", Node: "a"}, "following the policy server: localhost is on another machine; give a certificate and the authority of the server's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := feed.Follow(t.Context(), tc.config, func(*policy.Table) { t.Error("it obeyed") })
			if diff := cmp.Diff(tc.want, fmt.Sprint(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryClientEndsWithWhatWasPublishedLast lets clients come and go, with files and without, while Tables that have little
// in common are published, and the server is restarted.
func TestEveryClientEndsWithWhatWasPublishedLast(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		b, clients := newBell(), map[int]*follower{}
		o := startAt(r, b, somewhere(r))
		var last *policy.Table
		mark := uint64(0)
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			switch i := rapid.IntRange(0, 2).Draw(r, "client"); rapid.IntRange(0, 6).Draw(r, "step") {
			case 0, 1, 2:
				last = examples()[rapid.SampledFrom(exampleNames()).Draw(r, "table")]
				mark++
				o.Publish(last, mark)
			case 3, 4:
				if clients[i] == nil {
					file := ""
					if i > 0 {
						file = filepath.Join(root, fmt.Sprintf("%d-%d", run, i))
					}
					clients[i] = follow(r, b, o.config(fmt.Sprint("service-", i), file))
				}
			case 5:
				if clients[i] != nil {
					clients[i].stop()
					delete(clients, i)
					o.waitGone(r, fmt.Sprint("service-", i)) // or the next one of that name is taken for it
				}
			case 6:
				o.stop()
				o = startAt(r, b, o.address)
				if last != nil {
					mark++
					o.Publish(last, mark)
				}
			}
		}
		if last == nil {
			return
		}
		for i, f := range clients {
			o.waitFor(r, fmt.Sprint("service-", i), mark)
			if diff := cmp.Diff(served(r, last), served(r, f.table())); diff != "" {
				r.Fatalf("client %d (-published +obeyed):\n%s", i, diff)
			}
		}
		for _, f := range clients {
			f.stop()
		}
		o.stop()
	})
}
