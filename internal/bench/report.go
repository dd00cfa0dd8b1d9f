package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Document is a report for people.
type Document struct {
	subject  string // engine or service
	heading  []string
	sections []section
	leftOut  []string // rows not measured for lack of time
}

// section is a table with an explanation. Only Markdown shows the explanation. A
// section without rows is left out.
type section struct {
	title, about string
	table        table
}

// table is a header and rows of cells.
type table [][]string

func newDocument(subject string, heading []string, sections ...section) Document {
	sections = slices.DeleteFunc(sections, func(s section) bool { return len(s.table) == 1 })
	return Document{subject: subject, heading: heading, sections: sections}
}

// Text writes the document for a terminal.
func (d Document) Text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(d.heading, "\n"))
	for _, s := range d.sections {
		fmt.Fprintf(w, "\n%s\n", s.title)
		for _, cells := range s.table {
			fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
		}
	}
	if len(d.leftOut) > 0 {
		fmt.Fprintf(w, "\nNot measured for lack of time:\n  %s\n", strings.Join(d.leftOut, "\n  "))
	}
	return w.Flush()
}

// Markdown writes the document with explanations.
func (d Document) Markdown(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# The %[1]s, measured\n\nWritten by `colophon bench %[1]s --markdown` on %[2]s.\n\n", d.subject, time.Now().UTC().Format(time.DateOnly))
	for _, line := range d.heading {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	for _, s := range d.sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.title, s.about)
		for i, cells := range s.table {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --: |", len(cells)))
			}
		}
	}
	if len(d.leftOut) > 0 {
		fmt.Fprintf(&b, "\nNot measured for lack of time: %s.\n", strings.Join(d.leftOut, "; "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// digits formats a number with about three digits.
func digits(v float64) string {
	places := 0
	if v > 0 {
		places = max(0, 2-int(math.Floor(math.Log10(v))))
	}
	return fmt.Sprintf("%.*f", min(places, 3), v)
}

func percent(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }

// megabytes formats a size in 1e6 bytes, where 0 means unknown.
func megabytes(mb float64) string {
	if mb == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", mb)
}
