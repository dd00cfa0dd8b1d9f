package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"colophon/jobs"
	"colophon/model/catalog"
	"colophon/model/watermark"
)

type detectCmd struct {
	databaseFlags
	sourceFlags
	File  string `arg:"" type:"path" help:"Text to examine, in UTF-8; - for standard input."`
	Owner string `required:"" placeholder:"NAME" help:"User name of the account whose watermark to look for ($COLOPHON_OWNER)."`
	JSON  bool   `name:"json" help:"Print the result as JSON, as POST /detect answers it."`
}

// maxDetectText bounds the text to examine, in bytes. A text of the largest number of tokens
// is smaller.
const maxDetectText = 1 << 20

// Run looks for a watermark in a text, while the service runs. The model gives the tokenizer,
// so it must be that of the service.
func (c *detectCmd) Run(ctx context.Context, t *terminal, log *slog.Logger, known catalog.Releases) error {
	text, err := c.read(t.in)
	if err != nil {
		return &usageError{err}
	}
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	tokenizer, _, err := source.Tokenizer()
	if err != nil {
		return err
	}
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		accounts, err := b.accounts(ctx, false)
		if err != nil {
			return err
		}
		account, err := named(ctx, accounts, c.Owner)
		if err != nil {
			return err
		}
		found, err := jobs.NewDetector(b.store, tokenizer.Encode).Detect(ctx, account.ID, text)
		if long, ok := errors.AsType[*jobs.TextLengthError](err); ok {
			return &usageError{fmt.Errorf("<file>: %w", long)}
		}
		if err != nil {
			return err
		}
		if c.JSON {
			err = printDetection(t.out, found)
		} else {
			err = showDetection(t.out, found, account.Username, source.Name)
		}
		if err != nil {
			return err
		}
		return detectionStatus(found.Result)
	})
}

// read returns the text. It refuses files that are no plain text, because nothing would be
// found in them.
func (c *detectCmd) read(in io.Reader) (string, error) {
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDetectText+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxDetectText:
		return "", fmt.Errorf("<file>: the text has more than %d bytes: give a part of it", maxDetectText)
	case !utf8.Valid(text) || strings.Contains(string(text), "\x00"):
		return "", errors.New("<file>: not plain text in UTF-8: save the text as such")
	}
	return string(text), nil
}

// detectionStatus returns the error that gives the program the exit status of a result, or nil
// for a watermark that was found.
func detectionStatus(r watermark.Result) error {
	switch r {
	case watermark.Found:
		return nil
	case watermark.NotFound:
		return &verdictError{errors.New("the watermark was not found, which proves nothing"), statusRefuted}
	}
	return &verdictError{errors.New("the watermark was not found, and the text is too short to say"), statusCannotTell}
}

func printDetection(out io.Writer, found jobs.Detection) error {
	return json.NewEncoder(out).Encode(struct {
		Result       watermark.Result `json:"result"`
		TokensScored int              `json:"tokens_scored"`
		Key          string           `json:"key,omitempty"`
	}{found.Result, found.Scored, found.Key})
}

// showDetection prints a result, what it shows and what it does not show.
func showDetection(out io.Writer, found jobs.Detection, owner, model string) error {
	var b strings.Builder
	says, means := "Too short to say: the watermark of this account was not found in the text, which has few tokens.", tooShortMeans
	switch found.Result {
	case watermark.Found:
		says, means = "Found: passages of the text have the watermark of this account.", foundMeans
	case watermark.NotFound:
		says, means = "Not found: the watermark of this account was not found in the text.", notFoundMeans
	}
	fmt.Fprintf(&b, "%s\n\n", says)
	key := found.Key
	if key == "" {
		key = "none: no text was ever marked for this account"
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{{"account", owner}, {"key", key}, {"tokenizer", model}, {"scored", fmt.Sprintf("%d tokens", found.Scored)}} {
		fmt.Fprintf(table, "%s\t%s\n", row[0], printable(row[1]))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	b.WriteString(means)
	_, err := io.WriteString(out, b.String())
	return err
}

// These texts say what the results mean.
const (
	foundMeans = `
Passages of the text have the watermark of this account: they were generated under its key, or somebody has forged it.
A text that was written without the key is reported as found with a probability below one in a million, for each text
and account that is tried.

It does not show which passages these are, when and by which job they were generated, who published the text, and
whether it was changed since. The watermark is not unforgeable: a person with many marked texts, or with many results of
this service, can write a text that has it. A receipt of the job is stronger evidence: colophon verify checks it.
`
	notFoundMeans = `
This proves nothing. The text may still have been generated for this account: without a watermark, at temperature 0 or
little above it, with another model than this tokenizer's, or in a passage that is too short. A watermark is also lost
when enough of the words are replaced, as in a paraphrase or a translation.
`
	tooShortMeans = `
This proves nothing. In a text with fewer than 40 tokens to score, a watermark is often there and not found. At
temperature 0.8, it is usually found from 100 tokens on. Give a longer part of the text.
`
)
