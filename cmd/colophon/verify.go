package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"colophon/events/receipt"
)

// Exit statuses of the commands that check evidence.
const (
	statusRefuted    = 1
	statusCannotTell = 2
	statusWrongUsage = 64
)

// verdictError is the result of a command that checks evidence and has not proven it.
type verdictError struct {
	err    error
	status int
}

// Error returns a text without control characters, because it may quote the evidence.
func (e *verdictError) Error() string { return printable(e.err.Error()) }
func (e *verdictError) Unwrap() error { return e.err }

// forEvidence gives the errors of commands that check evidence a status of their own: 2 means
// there that the command cannot tell, and 1 that the evidence is refuted. So wrong usage has
// another status, and a database that is down refutes nothing.
func forEvidence(command string, err error) error {
	is := func(name string) bool { return strings.HasPrefix(command, name) } // the names of arguments follow
	if err == nil || !slices.ContainsFunc([]string{"verify", "replay", "detect", "log verify"}, is) {
		return err
	}
	if _, ok := errors.AsType[*verdictError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return &verdictError{err, statusWrongUsage}
	}
	return &verdictError{fmt.Errorf("%w: %w", receipt.ErrCannotTell, err), statusCannotTell}
}

type verifyReceiptCmd struct {
	File   string `arg:"" type:"path" help:"Receipt, as GET /jobs/{id}/receipt answers it; - for standard input."`
	Key    string `type:"path" placeholder:"FILE" help:"File with the keys of the log, as GET /log/key answers them. Get it from a source that you trust. Without it, the result is at best that nothing is wrong."`
	Policy string `var:"-" type:"path" placeholder:"FILE" help:"File with logs that are trusted and witnesses that must have cosigned, a policy of c2sp.org/tlog-policy."`
}

// Run verifies a receipt. It needs no database, no network and no data directory.
func (c *verifyReceiptCmd) Run(t *terminal) error {
	text, err := c.read(t.in)
	if err != nil {
		return &usageError{err}
	}
	var keys receipt.Keys
	if c.Key != "" {
		if keys, err = readKeys(c.Key); err != nil {
			return &usageError{fmt.Errorf("--key: %w", err)}
		}
	}
	var policy *receipt.Policy
	if c.Policy != "" {
		if policy, err = readPolicy(c.Policy); err != nil {
			return &usageError{fmt.Errorf("--policy: %w", err)}
		}
	}
	r, err := receipt.Verify(text, keys, policy)
	if errors.Is(err, receipt.ErrRefuted) {
		return &verdictError{err, statusRefuted}
	}
	if len(r.Events) > 0 && r.Size > 0 {
		if err := showReport(t.out, r, err == nil); err != nil {
			return err
		}
	}
	if err != nil {
		return &verdictError{err, statusCannotTell}
	}
	return nil
}

func (c *verifyReceiptCmd) read(in io.Reader) ([]byte, error) {
	if c.File == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(c.File)
}

// readPolicy reads a file with a policy.
func readPolicy(path string) (*receipt.Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return receipt.ParsePolicy(string(text))
}

// showReport prints what a receipt proves, or what it would prove if nothing were missing.
func showReport(out io.Writer, r *receipt.Report, proven bool) error {
	var b strings.Builder
	first, last := r.Events[0], r.Events[len(r.Events)-1]
	if proven {
		fmt.Fprintf(&b, "Proven: the service that signs the log %s has recorded this.\n\n", printable(r.Log))
	} else {
		fmt.Fprintf(&b, "Nothing is wrong with this receipt of the log %s, but it is not proven: the reason is below.\n\n", printable(r.Log))
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, printable(value)) }
	row("job", r.Job)
	row("accepted", first.At)
	if r.Erased() {
		end := r.Events[len(r.Events)-2]
		row("state", fmt.Sprintf("%s at %s", strings.TrimPrefix(end.Type, "job."), end.At))
		row("erased", fmt.Sprintf("at %s, after %d events: the service has no prompt and no text of it any more", last.At, len(r.Events)))
	} else {
		row("state", fmt.Sprintf("%s at %s, after %d events", strings.TrimPrefix(last.Type, "job."), last.At, len(r.Events)))
	}
	for _, name := range []string{"model", "weights", "kernel"} {
		if value := r.Fact(name); value != "" {
			row(name, value)
		}
	}
	if w, ok := r.Watermark(); ok {
		row("watermark", fmt.Sprintf("the text is marked with the key %s (%s): only the holder of this key can execute it again", w.Key, w.Parameters))
	}
	row("in the log", fmt.Sprintf("the last event has the index %d, of %d events", r.Index, r.Size))
	for _, c := range r.Cosigned {
		row("cosigned", fmt.Sprintf("by %s at %s", c.Witness, c.Time.Format(time.RFC3339)))
	}
	if p := r.Continues; p != nil {
		row("continues", fmt.Sprintf("the log %s after %d events", p.Origin, p.Size))
	}
	text := func(name, value string, ok bool) {
		if ok {
			row(name, fmt.Sprintf("%q", value))
		} else {
			row(name, "not shown")
		}
	}
	prompt, ok := r.Prompt()
	text("prompt", prompt, ok)
	generated, ok := r.Text()
	text("text", generated, ok)
	if err := table.Flush(); err != nil {
		return err
	}
	b.WriteString(notProven)
	_, err := io.WriteString(out, b.String())
	return err
}

// printable returns a text without the characters that would control a terminal. A receipt
// may come from anybody.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// notProven says what no receipt can prove.
const notProven = `
The times are those of the service's clock. A cosignature shows that the log existed by its time, and nothing shows
that it did not exist before. The receipt does not show that no other log has another history of the same job.
`
