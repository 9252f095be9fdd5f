package redis

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A part is what a call wants of one counter.
type part struct {
	key    counter.Key
	window counter.Window
	place  int   // among what the caller named
	most   int64 // for takes
	amount       // for settlements and restorations
}

// An amount is what to add, and the window or sub-window that it belongs to.
type amount struct{ at, n int64 }

func partsOf(limits []counter.Limit) []part {
	parts := make([]part, len(limits))
	for i, l := range limits {
		parts[i] = part{key: l.Key, window: l.Window, place: i, most: l.Ceiling()}
	}
	return parts
}

// A group is what one call of the script can do: what lies in one slot of a cluster, or everything. Those of sets are kept, one for each
// identity, and read by each of its requests: so a group holds no more than these need, and in one piece.
type group struct {
	keys    []string // the values, then what stands beside them
	values  byte     // how many
	members []member // those of one value together, by their names
	amounts []amount // of the members, where the call has them
}

// A member is one counter of a group.
type member struct {
	name     int64 // in its value
	most     int64 // for takes
	place    int32 // among what the caller named
	siblings byte  // the members of its value, if it is the first of them; else 0
}

func (m *member) window() counter.Window { return counter.Window(m.name & 0xff) }

// nameOf is the name of a counter in its value: what is left of its key, and the window.
func nameOf(p part) int64 {
	id := p.key.Counter()
	return int64(binary.BigEndian.Uint32(id[:]))<<8 | int64(p.window)
}

// group puts together what one call of the script can do. The groups are in the order in which their subjects first appear.
func (s *Store) group(parts []part, m mode) []group {
	var groups []group
	if !s.spread {
		if len(parts) > 0 {
			groups = append(groups, s.groupOf(parts, m))
		}
		return groups
	}
	for len(parts) > 0 {
		subject := parts[0].key.Subject()
		var one, others []part
		for _, p := range parts {
			if p.key.Subject() == subject {
				one = append(one, p)
			} else {
				others = append(others, p)
			}
		}
		groups, parts = append(groups, s.groupOf(one, m)), others
	}
	return groups
}

func (s *Store) groupOf(parts []part, m mode) group {
	parts = merged(slices.SortedFunc(slices.Values(parts), func(a, b part) int {
		return cmp.Or(bytes.Compare(a.key[:len(a.key)-4], b.key[:len(b.key)-4]), cmp.Compare(nameOf(a), nameOf(b)))
	}))
	g := group{members: make([]member, len(parts))}
	var beside []string
	for i, first := 0, 0; i < len(parts); i++ {
		p := &parts[i]
		if i == 0 || !sameValue(p.key, parts[first].key) {
			first = i
			g.keys = append(g.keys, s.valueKey(p.key))
		}
		g.members[i] = member{name: nameOf(*p), most: p.most, place: int32(p.place)} //nolint:gosec // See counter.MaxLimits.
		g.members[first].siblings++
		beside = append(beside, s.beside(*p, m)...)
		if m == settle || m == restore {
			g.amounts = append(g.amounts, p.amount)
		}
	}
	g.values = byte(len(g.keys)) //nolint:gosec // No lease and no set has more than 255 counters.
	g.keys = append(g.keys, beside...)
	return g
}

// beside names what the script needs of a counter beside its value.
func (s *Store) beside(p part, m mode) []string {
	switch {
	case m == restore:
		return []string{s.besideKey(p.key, restoredKey)}
	case p.window != counter.InUse:
		return nil
	case m == settle || m == renew:
		return []string{s.besideKey(p.key, heldSet), s.besideKey(p.key, settledSet)}
	default:
		return []string{s.besideKey(p.key, heldSet)}
	}
}

// merged makes one of parts that are of one counter, because the script takes each counter once.
func merged(sorted []part) []part {
	all := sorted[:0]
	for _, p := range sorted {
		if last := len(all) - 1; last >= 0 && nameOf(all[last]) == nameOf(p) && sameValue(all[last].key, p.key) {
			all[last].n += p.n
			continue
		}
		all = append(all, p)
	}
	return all
}

func sameValue(a, b counter.Key) bool { return a.Subject() == b.Subject() && a.Entry() == b.Entry() }

// A mode is what the script does. The numbers stand in it.
type mode byte

const (
	take mode = iota + 1
	look
	settle
	giveBack
	renew
	restore
)

// The sizes of the parts of a request, in bytes, and where some of them begin.
const (
	headerSize = 29
	nameSize   = 5
	memberSize = nameSize + 3*8
	momentAt   = nameSize
	amountAt   = momentAt + 8
)

// A header is what a request says of all counters.
type header struct {
	mode   mode
	final  bool // nothing is taken after it that could be refused; of a restoration, that the store was empty
	now    int64
	expiry int64
	lease  counter.LeaseID
}

// request is the argument of the script for one call. It asks for the amount of each member.
func (h header) request(g *group, ask func(i int, m *member) amount) []byte {
	b := make([]byte, 0, headerSize+int(g.values)+memberSize*len(g.members))
	b = binary.LittleEndian.AppendUint16(append(b, byte(h.mode)), uint16(len(g.keys))) //nolint:gosec // A few for each of 255 counters.
	b = append(b, g.values, boolByte(h.final))
	b = appendNumber(appendNumber(b, h.now), h.expiry)
	b = append(b, h.lease[:]...)
	for i := range g.members {
		m := &g.members[i]
		if m.siblings > 0 {
			b = append(b, m.siblings)
		}
		a := ask(i, m)
		b = appendNumber(b, m.name)[:len(b)+nameSize]
		b = appendNumber(appendNumber(appendNumber(b, a.at), a.n), m.most)
	}
	return b
}

// said is the amount that whoever made the group gave it.
func (g *group) said(i int, _ *member) amount { return g.amounts[i] }

// undo is the request that gives back what a request took, from where the answer, which must fit, says that it was taken.
func (g *group) undo(request, answer string) []byte {
	b := []byte(request)
	b[0] = byte(giveBack)
	at, taken := headerSize, answer[1:]
	for i := range g.members {
		if g.members[i].siblings > 0 {
			at++
		}
		m := b[at : at+memberSize]
		n := max(number(m[amountAt:]), 0)
		putNumber(m[amountAt:], -n)
		if n > 0 {
			copy(m[momentAt:amountAt], taken[8:16])
		}
		at, taken = at+memberSize, taken[16:]
	}
	return b
}

// A status is the first byte of the answer to a take.
type status byte

const (
	refused status = iota
	admitted
	doubted // refused, where others have taken what they may give back
)

// fits reports whether an answer to a take or a look is as long as it must be for the group.
func (g *group) fits(answer string) bool { return len(answer) == 1+16*len(g.members) }

// read fills counts, by the places of the members. Hits, if not nil, are what was asked for, and are counted where they were taken.
func (g *group) read(answer string, hits []int64, counts []counter.Count) (status, error) {
	if !g.fits(answer) || answer[0] > byte(doubted) {
		return refused, fmt.Errorf("%w: it has %d bytes for %d counters", errAnswer, len(answer), len(g.members))
	}
	st := status(answer[0])
	for i := range g.members {
		m := &g.members[i]
		used, at := number(answer[1+16*i:]), number(answer[9+16*i:])
		reset := m.reset(at)
		if used < 0 || used > counter.MaxCount || at < 0 || reset.Unix() > latest {
			return refused, fmt.Errorf("%w: %w: a counter cannot hold %d at %d", counter.ErrUnreadable, errAnswer, used, at)
		}
		if hits != nil && st == admitted {
			used += m.added(hits[m.place])
		}
		counts[m.place] = counter.Count{Used: used, Reset: reset}
	}
	return st, nil
}

// added is what a take adds to the counter.
func (m *member) added(hits int64) int64 {
	if m.window() == counter.InUse {
		return min(max(hits, 0), 1)
	}
	return max(hits, 0)
}

// latest is when the year 10000 begins, in seconds since 1970.
const latest = 253402300800

// reset is when the window ends that the script means by at.
func (m *member) reset(at int64) time.Time {
	switch w := m.window(); {
	case w == counter.InUse:
		return time.Time{}
	case w.Slides():
		return w.Gone(at)
	default:
		return time.Unix(at, 0).UTC()
	}
}

// moment is what the script calls the window that now lies in: its end in seconds since 1970, or the number of the sub-window.
func moment(w counter.Window, now time.Time) int64 {
	switch {
	case w == counter.InUse:
		return 0
	case w.Slides():
		return max(w.Sub(now), 0)
	default:
		_, end := w.Bounds(now)
		return max(end.Unix(), 0)
	}
}

// micros is a time as the script reckons, in microseconds since 1970.
func micros(t time.Time) int64 { return max(t.UnixMicro(), 0) }

func appendNumber(b []byte, n int64) []byte {
	return binary.LittleEndian.AppendUint64(b, uint64(n)) //nolint:gosec // The script reads it as it is written.
}

// number reads what appendNumber writes.
func number[T string | []byte](b T) (n int64) {
	for i := range 8 {
		n |= int64(b[i]) << (8 * i)
	}
	return n
}

func putNumber(b []byte, n int64) {
	binary.LittleEndian.PutUint64(b, uint64(n)) //nolint:gosec // As in appendNumber.
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// errAnswer is for an answer that no script of ours gives.
var errAnswer = errors.New("the answer is not what the script gives")
