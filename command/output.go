package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// A format is a value of the flag --output.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
	formatYAML format = "yaml"
)

var formats = []string{string(formatText), string(formatJSON), string(formatYAML)}

// String is for pflag.
func (f *format) String() string { return string(*f) }

// Type is what help calls the values.
func (*format) Type() string { return strings.Join(formats, "|") }

// Set is for pflag.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON, formatYAML:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("must be one of %s", strings.Join(formats, ", "))
}

func (f *format) addFlag(cmd *cobra.Command) {
	*f = formatText
	cmd.Flags().VarP(f, "output", "o", "form of what is printed")
	complete := cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // the flag was added above
	}
}

// addDirectory adds the flag -f, without which the command makes no sense.
func addDirectory(cmd *cobra.Command, directory *string) {
	cmd.Flags().StringVarP(directory, "filename", "f", "", "directory of manifests, or a single one")
	if err := cmd.MarkFlagDirname("filename"); err != nil {
		panic(err) // the flag was added above
	}
}

func checkDirectory(directory string) error {
	if directory == "" {
		return errors.New("flag -f is missing; it names the directory of manifests")
	}
	return nil
}

// printData prints a value as JSON or YAML.
func printData(w io.Writer, f format, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil && f == formatYAML {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", f, err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(text), "\n"))
	return err
}

// A paint puts text in colour, or does not.
type paint bool

// newPaint paints only what somebody looks at, and heeds https://no-color.org.
func newPaint(w io.Writer) paint {
	f, isFile := w.(*os.File)
	return paint(isFile && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())))
}

func (p paint) green(s string) string { return p.in("32", s) }
func (p paint) red(s string) string   { return p.in("31", s) }
func (p paint) bold(s string) string  { return p.in("1", s) }

func (p paint) in(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// printTable writes rows of which the first has the titles.
func printTable(w io.Writer, p paint, rows [][]string) {
	for i, line := range columns(rows) {
		if i == 0 {
			line = p.bold(line)
		}
		fmt.Fprintln(w, line)
	}
}

// columns pads the cells of all rows to the same widths, two spaces between them. The last column is not padded.
func columns(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return lines
}
