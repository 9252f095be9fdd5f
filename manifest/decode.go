package manifest

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	yamlnode "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// content is a document's value, as an API server would decode it, and where its parts stand.
type content struct {
	value   any
	node    *yamlnode.Node // nil if the places could not be found
	doubled bool           // a key stands twice somewhere
}

// decode reads the text as Kubernetes does: YAML 1.1 by way of JSON, whole numbers as int64. The places of the parts come
// from a second parser, which decides nothing.
func decode(c chunk) (content, *problem) {
	var out content
	asJSON := c.text
	if !c.json {
		var failure *problem
		if asJSON, out.doubled, failure = toJSON(c.text); failure != nil {
			return out, failure
		}
	}
	strict, err := kjson.UnmarshalStrict(asJSON, &out.value, kjson.DisallowDuplicateFields)
	if err != nil {
		return out, &problem{line: 1, reason: ReasonUnreadable, message: "This cannot be read as JSON."} // what err says might quote a Secret
	}
	out.doubled = out.doubled || len(strict) > 0
	node, another := parseNodes(c.text)
	if another > 0 {
		return out, &problem{line: another, reason: ReasonUnreadable, message: `Another document begins here without a line "---" before it.`}
	}
	out.node = node
	return out, nil
}

func toJSON(text []byte) (asJSON []byte, doubled bool, failure *problem) {
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil && strings.HasPrefix(err.Error(), "yaml: unmarshal errors:") {
		doubled = true // the only error that strictness adds
		asJSON, err = yaml.YAMLToJSON(text)
	}
	if err != nil {
		p := explainYAML(err)
		p.line = min(p.line, 1+bytes.Count(bytes.TrimRight(text, "\r\n"), []byte("\n"))) // the parser adds an empty line at the end
		return nil, false, &p
	}
	return asJSON, doubled, nil
}

// parseNodes finds where everything stands. If there is a second document, it returns the line of that.
func parseNodes(text []byte) (node *yamlnode.Node, another int) {
	decoder := yamlnode.NewDecoder(bytes.NewReader(text))
	var first, second yamlnode.Node
	if decoder.Decode(&first) != nil || len(first.Content) == 0 {
		return nil, 0
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, max(1, second.Line)
	}
	return first.Content[0], 0
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxErrors are what the parser says of broken YAML, in words for people. Everything else it says may quote the
// document and is not repeated. Late says that the parser counts lines from 0 there.
var syntaxErrors = map[string]struct {
	words string
	late  bool
}{
	"mapping values are not allowed in this context":               {`a ":" stands where none can; look at the indentation, and put values that contain ": " in quotes`, false},
	"could not find expected ':'":                                  {`a key has no ":" behind it; look at the indentation`, false},
	"did not find expected key":                                    {"this does not fit to what stands above; look at the indentation and at quotes that were not closed", true},
	"did not find expected '-' indicator":                          {"this does not fit to the list above; look at the indentation", true},
	"did not find expected node content":                           {"a value is missing here", true},
	"did not find expected ',' or ']'":                             {`a "[" was not closed, or a comma is missing`, true},
	"did not find expected ',' or '}'":                             {`a "{" was not closed, or a comma is missing`, true},
	"block sequence entries are not allowed in this context":       {`a "-" stands where no list can begin`, false},
	"found character that cannot start any token":                  {"a value begins with a tab, @, % or `; indent by spaces, and put such values in quotes", false},
	"found a tab character that violates indentation":              {"a tab is used for indentation; use spaces", false},
	"found a tab character where an indentation space is expected": {"a tab is used for indentation; use spaces", false},
	"found unexpected end of stream":                               {"a quote was not closed", false},
	"found unexpected document indicator":                          {"a quote was not closed before the next document", false},
	"found unknown escape character":                               {`what follows a "\" is unknown; put the value in single quotes`, false},
	"control characters are not allowed":                           {"there is a control character", false},
	"did not find expected alphabetic or numeric character":        {`a "*" or "&" begins a value; put it in quotes`, false},
	"document contains excessive aliasing":                         {"aliases are used too often", false},
	"map merge requires map or sequence of maps as the value":      {`"<<" needs an object as its value`, false},
	"did not find expected comment or line break":                  {`something follows "|" or ">" in the same line`, false},
	"did not find expected whitespace or line break":               {"a space is missing", false},
	"mapping keys are not allowed in this context":                 {`a "?" stands where no key can`, false},
	"found undefined tag handle":                                   {`a value begins with "!"; put it in quotes`, true},
	"did not find expected tag URI":                                {`a value begins with "!"; put it in quotes`, false},
	"did not find expected <document start>":                       {"something follows behind the end of the document", true},
	"did not find URI escaped octet":                               {`a value begins with "!"; put it in quotes`, false},
	"attempted to go past the end of stream; corrupted value?":     {"it ends too early", false},
	"found invalid Unicode character escape code":                  {`the digits behind "\u" or "\x" are no character`, false},
	"did not find expected hexdecimal number":                      {`the digits behind "\u" or "\x" are missing`, false},
	"found an indentation indicator equal to 0":                    {`the number behind "|" or ">" must not be 0`, false},
	"did not find expected digit or '.' character":                 {"the %YAML line has no version", false},
	"found incompatible YAML document":                             {"only YAML 1.1 and 1.2 can be read", true},
}

func explainYAML(err error) problem {
	p := problem{line: 1, reason: ReasonUnreadable, message: "This is not valid YAML."}
	parts := yamlError.FindStringSubmatch(err.Error())
	if parts == nil {
		return p
	}
	if n, err := strconv.Atoi(parts[1]); err == nil {
		p.line = n
	}
	if known, found := syntaxErrors[parts[2]]; found {
		p.message = "This is not valid YAML: " + known.words + "."
		if known.late && parts[1] != "" {
			p.line++
		}
	}
	return p
}
