package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The functions of this file find where in a document something stands. A nil node is one of which nothing is known.

func lineOf(n *yaml.Node) int {
	if n == nil {
		return 1
	}
	return n.Line
}

// lineOfField returns the line of a field by its path, as in spec.limits.rates[0].max, or of the last part of the path that
// is there.
func lineOfField(n *yaml.Node, path string) int {
	line := lineOf(n)
	for n != nil && path != "" {
		n, line, path = step(resolve(n), line, path)
	}
	return line
}

// step goes to the child that the longest beginning of the path names: keys may have dots in them.
func step(n *yaml.Node, line int, path string) (*yaml.Node, int, string) {
	if n == nil {
		return nil, line, ""
	}
	path = strings.TrimPrefix(path, ".")
	if n.Kind == yaml.SequenceNode {
		index, rest, _ := strings.Cut(strings.TrimPrefix(path, "["), "]")
		if i, err := strconv.Atoi(index); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i].Line, rest
		}
		return nil, line, ""
	}
	var value *yaml.Node
	rest := path
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		after, found := cutKey(path, n.Content[i].Value)
		if found && (value == nil || len(after) < len(rest)) {
			value, line, rest = n.Content[i+1], n.Content[i].Line, after
		}
	}
	return value, line, rest
}

// cutKey cuts "key" or "[key]" from the front of a path.
func cutKey(path, key string) (rest string, found bool) {
	if rest, found = strings.CutPrefix(path, "["+key+"]"); found {
		return rest, true
	}
	rest, found = strings.CutPrefix(path, key)
	return rest, found && key != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func child(n *yaml.Node, key string) *yaml.Node {
	n = resolve(n)
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func element(n *yaml.Node, i int) *yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
		return nil
	}
	return resolve(n.Content[i])
}

// A trail is the way to a node, written out only where it is needed.
type trail struct {
	up    *trail
	key   string
	index int // counts if key is empty
}

func (t *trail) String() string {
	if t == nil {
		return ""
	}
	up := t.up.String()
	switch {
	case t.key == "":
		return up + "[" + strconv.Itoa(t.index) + "]"
	case up == "":
		return t.key
	}
	return up + "." + t.key
}

// duplicates finds keys that stand twice, anywhere below. What is secret is not named.
func duplicates(n *yaml.Node, secret bool) []problem {
	var problems []problem
	var visit func(n *yaml.Node, way *trail)
	visit = func(n *yaml.Node, way *trail) {
		if len(problems) >= maxProblems {
			return
		}
		switch n.Kind {
		case yaml.MappingNode:
			for _, p := range duplicatesIn(n) {
				p.field = (&trail{up: way, key: p.field}).String()
				if secret || guarded(p.field) {
					p.field = ""
				}
				problems = append(problems, p)
			}
			for i := 0; i+1 < len(n.Content); i += 2 {
				visit(n.Content[i+1], &trail{up: way, key: n.Content[i].Value})
			}
		case yaml.SequenceNode:
			for i, c := range n.Content {
				visit(c, &trail{up: way, index: i})
			}
		default: // scalars hold no keys, and what an alias stands for is visited where it is written
		}
	}
	if n = resolve(n); n != nil {
		visit(n, nil)
	}
	return problems
}

// duplicatesIn finds keys that stand twice in one mapping.
func duplicatesIn(n *yaml.Node) []problem {
	var problems []problem
	seen := map[string]int{}
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			continue
		}
		if line, twice := seen[key.Value]; twice {
			if len(problems) == maxProblems {
				break
			}
			problems = append(problems, problem{
				line: key.Line, reason: ReasonInvalid, field: key.Value,
				message: "This key stands here a second time, the first time " + above(key.Line-line) + "; remove one of them.",
			})
			continue
		}
		seen[key.Value] = key.Line
	}
	return problems
}

// above says how far, because documents do not know their own place in the file.
func above(lines int) string {
	switch lines {
	case 0:
		return "in the same line"
	case 1:
		return "one line above"
	}
	return fmt.Sprintf("%d lines above", lines)
}
