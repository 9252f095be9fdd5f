package controllers

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/policy"
)

// Acknowledged is what those who are connected to one replica of the operator have in force.
type Acknowledged struct {
	Services Services
	Gateways map[policy.Name]Fleet // that have an Envoy connected, or that Envoys could not be told of
}

// Services is the replicas of the rate-limit service.
type Services struct {
	Connected int
	Mark      uint64                   // the largest that all of them have in force; 0: none
	Refused   map[policy.Object]string // what any of them cannot put in force, in its words
}

// Fleet is the Envoys of one gateway.
type Fleet struct {
	Connected int
	Current   int    // that have everything in force that was published last
	Mark      uint64 // the largest that all of them have in force; 0: none
	Rejected  string // what one of them says against what is published now; empty: nothing
	Untold    string // why they were not told of the newest; empty: they were
}

// A report is what one replica of the operator tells the others of Acknowledged: marks are its own, so it tells how far they
// have come. It is written as JSON.
type report struct {
	Services reportedServices         `json:"services"`
	Gateways map[string]reportedFleet `json:"gateways,omitempty"` // by namespace/name
	// Cut: there is more than the report tells, so that nothing can be said of what it does not name.
	Cut bool `json:"cut,omitempty"`
}

type reportedServices struct {
	Connected int               `json:"connected"`
	Seen      progress          `json:"seen,omitempty"`
	Refused   []reportedRefusal `json:"refused,omitempty"`
}

type reportedRefusal struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Words     string `json:"words"`
}

type reportedFleet struct {
	Connected int    `json:"connected"`
	Current   int    `json:"current"`
	Seen      uint64 `json:"seen,omitempty"` // of QuotaGateways
	Rejected  string `json:"rejected,omitempty"`
	Untold    string `json:"untold,omitempty"`
}

// What a report tells others: an object of Kubernetes has its bounds.
const (
	maxRefused = 200
	maxWords   = 200     // bytes of one rejection
	maxReport  = 200_000 // bytes; the API server takes 256 KiB of annotations
)

func newReport(a *Acknowledged, progressAt func(uint64) progress) report {
	r := report{Services: reportedServices{Connected: a.Services.Connected}, Gateways: map[string]reportedFleet{}}
	if a.Services.Connected > 0 {
		r.Services.Seen = progressAt(a.Services.Mark)
	}
	for _, o := range slices.SortedFunc(maps.Keys(a.Services.Refused), compareObjects) {
		r.Services.Refused = append(r.Services.Refused, reportedRefusal{o.Kind, o.Namespace, o.Name.Name, a.Services.Refused[o]})
	}
	for name, f := range a.Gateways {
		told := reportedFleet{Connected: f.Connected, Current: f.Current, Rejected: f.Rejected, Untold: f.Untold}
		if f.Connected > 0 {
			told.Seen = progressAt(f.Mark)[policy.KindGateway]
		}
		r.Gateways[name.String()] = told
	}
	return r
}

// text is what others are told: words are shortened first, then refusals are left out, then gateways of which nothing is wrong, and
// then the rest.
func (r report) text() ([]byte, error) {
	r.Services.Refused, r.Gateways = slices.Clone(r.Services.Refused), maps.Clone(r.Gateways)
	if len(r.Services.Refused) > maxRefused {
		r.Services.Refused, r.Cut = r.Services.Refused[:maxRefused], true
	}
	for i := range r.Services.Refused {
		r.Services.Refused[i].Words = shortened(r.Services.Refused[i].Words)
	}
	for name, f := range r.Gateways {
		f.Rejected, f.Untold = shortened(f.Rejected), shortened(f.Untold)
		r.Gateways[name] = f
	}
	text, err := json.Marshal(r)
	if err != nil || len(text) <= maxReport {
		return text, err
	}
	r.Cut = true
	maps.DeleteFunc(r.Gateways, func(_ string, f reportedFleet) bool { return f.Rejected == "" && f.Untold == "" })
	if text, err = json.Marshal(r); err != nil || len(text) <= maxReport {
		return text, err
	}
	r.Gateways = nil
	return json.Marshal(r)
}

func shortened(words string) string {
	if len(words) <= maxWords {
		return words
	}
	return strings.ToValidUTF8(words[:maxWords], "") + "…"
}

// A dataPlane is what everyone has in force who is connected to any replica of the operator.
type dataPlane struct {
	services enforcers
	refused  map[policy.Object]string
	gateways map[policy.Name]enforcers
	unheard  presence // of the Envoys of all other gateways
	// cut says that a replica knows more than it tells.
	cut bool
	// unreadable names replicas whose reports this version cannot read: of their clients nothing is known.
	unreadable []string
}

// enforcers are the services, or the Envoys of a gateway.
type enforcers struct {
	connected, current int
	seen               progress // by all of them; of a gateway's Envoys, QuotaGateways only
	rejected, untold   string
	presence           presence
}

// presence says whether anybody is there.
type presence uint8

const (
	awaited presence = iota // nobody is, but somebody was a moment ago, or may be about to connect
	present
	gone
)

// join puts the reports of all replicas together.
func join(reports map[string]report) *dataPlane {
	d := &dataPlane{refused: map[policy.Object]string{}, gateways: map[policy.Name]enforcers{}}
	for _, replica := range slices.Sorted(maps.Keys(reports)) {
		r := reports[replica]
		if s := r.Services; s.Connected > 0 {
			d.services.add(s.Connected, 0, s.Seen)
		}
		d.cut = d.cut || r.Cut
		for _, refusal := range r.Services.Refused {
			d.cut = d.cut || refusal.Kind == "" // It is of everything.
			d.refused[policy.Object{Kind: refusal.Kind, Name: policy.Name{Namespace: refusal.Namespace, Name: refusal.Name}}] = refusal.Words
		}
		for name, f := range r.Gateways {
			n := parseName(name)
			fleet := d.gateways[n]
			if f.Connected > 0 {
				fleet.add(f.Connected, f.Current, progress{policy.KindGateway: f.Seen})
			}
			if fleet.rejected == "" {
				fleet.rejected = f.Rejected
			}
			if fleet.untold == "" {
				fleet.untold = f.Untold
			}
			d.gateways[n] = fleet
		}
	}
	return d
}

// envoys is those of a gateway.
func (d *dataPlane) envoys(gateway policy.Name) enforcers {
	if f, known := d.gateways[gateway]; known {
		return f
	}
	return enforcers{presence: d.unheard}
}

// add joins those who are connected to one more replica.
func (e *enforcers) add(connected, current int, seen progress) {
	if e.connected > 0 {
		seen = e.seen.earlier(seen)
	}
	e.connected, e.current, e.seen, e.presence = e.connected+connected, e.current+current, seen, present
}
