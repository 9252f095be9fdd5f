package demo

import "strings"

const (
	defaultTokens = 32
	mostTokens    = 1_000_000
	mostChoices   = 128 // OpenAI's API reference
)

// A demand is what a request asks for, whichever protocol it speaks.
type demand struct {
	model   string
	stream  bool
	input   int    // tokens
	choices number // without a value: 1
	maxima  []number
	plain   bool // the protocol reports neither cached nor reasoning tokens
}

// A number is one that a request may leave out, and the field that it stands in.
type number struct {
	field string
	value *int
}

// A job is a demand with the size of its answer decided.
type job struct {
	*exchange
	demand

	n         int // choices
	cached    int // of the input
	output    int // visible tokens of each choice
	reasoning int // and those that nobody sees
	cut       bool
}

func (x *exchange) job(d demand) (*job, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	j := &job{exchange: x, demand: d, n: 1, output: x.wanted()}
	if d.choices.value != nil {
		j.n = *d.choices.value
	}
	if !d.plain {
		j.cached, j.reasoning = min(x.switches.cached, d.input), x.switches.reasoning
	}
	for _, m := range d.maxima {
		if m.value != nil && *m.value < j.output+j.reasoning {
			j.reasoning = min(j.reasoning, *m.value) // a model thinks before it speaks
			j.output, j.cut = *m.value-j.reasoning, true
		}
	}
	if j.spent() > mostTokens {
		return nil, badRequest(d.choices.field, "%s: the demo upstream makes at most %d tokens in all choices together", d.choices.field, mostTokens)
	}
	x.understood(d.model, d.stream, cost{input: d.input, cached: j.cached, output: j.spent()})
	return j, nil
}

func (d demand) check() error {
	if d.model == "" {
		return badRequest("model", "model: you must provide a model parameter")
	}
	for _, m := range d.maxima {
		if m.value != nil && *m.value < 1 {
			return badRequest(m.field, "%s: must be at least 1", m.field)
		}
	}
	if n := d.choices; n.value != nil && (*n.value < 1 || *n.value > mostChoices) {
		return badRequest(n.field, "%s: must be from 1 to %d", n.field, mostChoices)
	}
	return nil
}

// spent is the output that a whole answer costs, all choices together.
func (j *job) spent() int { return (j.output + j.reasoning) * j.n }

// Three letters each: with the space a token is 4 bytes of text.
var words = strings.Fields("the old man and his dog sat out all day one fox ran off for fun two big red " +
	"ant dug our own hot mud who can say why not yet but she did ask how far you are")

// word is the i-th token of every answer; like a real one it brings the space before it.
func word(i int) string {
	if i == 0 {
		return words[0]
	}
	return " " + words[i%len(words)]
}

// text is all words of one choice.
func (j *job) text() string {
	var b strings.Builder
	for i := range j.output {
		b.WriteString(word(i))
	}
	return b.String()
}

// ended is one of two words for why an answer ended: by itself, or because the request allowed no more.
func (j *job) ended(whole, cut string) string {
	if j.cut {
		return cut
	}
	return whole
}
