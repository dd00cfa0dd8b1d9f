package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"colophon/events/ledger"
	"colophon/events/receipt"
)

type logVerifyCmd struct {
	databaseFlags
	URL      string   `name:"url" var:"-" placeholder:"URL" help:"Check a remote log through its tiles instead of a database: the URL that has the checkpoint below it, such as https://example.com/log. Default with --policy: the URL of the log in it."`
	Since    []string `type:"existingfile" placeholder:"FILE" help:"Earlier checkpoint of the log, as /log/checkpoint answered it. The log must still begin with its events. May be given several times."`
	Key      string   `type:"existingfile" placeholder:"FILE" help:"Keys that have signed the checkpoints of --since, and the one of a remote log, as /log/key answered them. Get them from a source that you trust. Default: the keys in the database; without the keys of a remote log, the result is at best that nothing is wrong."`
	Policy   string   `var:"-" type:"existingfile" placeholder:"FILE" help:"For a remote log: file with logs that are trusted and witnesses that must have cosigned the checkpoint, a policy of c2sp.org/tlog-policy."`
	LogState string   `type:"path" placeholder:"FILE" help:"File of the process that signs: the log must also continue the checkpoint in it. Default: log-state in the data directory, if it is there ($COLOPHON_LOG_STATE)."`
}

// Run checks the whole log while the service runs: that of a database, or a remote one.
func (c *logVerifyCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	var earlier []string
	for _, path := range c.Since {
		text, err := os.ReadFile(path)
		if err != nil {
			return &usageError{fmt.Errorf("--since: %w", err)}
		}
		earlier = append(earlier, string(text))
	}
	var trusted receipt.Keys
	if c.Key != "" {
		var err error
		if trusted, err = readKeys(c.Key); err != nil {
			return &usageError{fmt.Errorf("--key: %w", err)}
		}
	}
	if c.URL != "" || c.Policy != "" {
		return c.audit(ctx, t, earlier, trusted)
	}
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		known, err := c.known(ctx, b, earlier, trusted)
		if err != nil {
			return err
		}
		return b.verifyLog(ctx, t, known)
	})
}

// known returns the signed checkpoints that the log must continue: those of the arguments,
// the one of the signer's file, and the latest one of the database.
func (c *logVerifyCmd) known(ctx context.Context, b *base, earlier []string, trusted receipt.Keys) (known []receipt.Checkpoint, err error) {
	keys := ledger.NewKeys(b.Pool, b.Vault)
	latest, err := keys.Latest(ctx, trusted)
	if errors.Is(err, ledger.ErrForked) && trusted != nil {
		return nil, &verdictError{fmt.Errorf("%w: no key of --key has signed the latest checkpoint: %w", receipt.ErrCannotTell, err), statusCannotTell}
	}
	if errors.Is(err, ledger.ErrForked) {
		return nil, &verdictError{fmt.Errorf("%w: %w", receipt.ErrRefuted, err), statusRefuted}
	}
	if err != nil {
		return nil, err
	}
	if latest == nil {
		return nil, &verdictError{fmt.Errorf("%w: no process has signed the log", receipt.ErrCannotTell), statusCannotTell}
	}
	known = append(known, latest.Checkpoint)
	state, err := readState(c.LogState, c.Data)
	switch {
	case err != nil:
		return nil, err
	case state != nil && state.Origin != latest.Origin && c.LogState != "":
		return nil, &verdictError{fmt.Errorf("%w: %s is of the log %s, and this one is %s", receipt.ErrCannotTell, c.LogState, state.Origin, latest.Origin), statusCannotTell}
	case state != nil && state.Origin == latest.Origin:
		known = append(known, *state)
	}
	if trusted == nil {
		if trusted, err = keys.Public(ctx); err != nil {
			return nil, err
		}
	}
	for i, text := range earlier {
		signed, err := receipt.OpenCheckpoint(text, trusted...)
		switch {
		case err != nil:
			return nil, &verdictError{fmt.Errorf("%w: %s: %w", receipt.ErrCannotTell, c.Since[i], err), statusCannotTell}
		case signed.Origin != latest.Origin:
			return nil, &verdictError{fmt.Errorf("%w: %s is of the log %s, and this one is %s", receipt.ErrCannotTell, c.Since[i], signed.Origin, latest.Origin), statusCannotTell}
		}
		known = append(known, signed.Checkpoint)
	}
	return known, nil
}

// verifyLog checks the log and prints the result.
func (b *base) verifyLog(ctx context.Context, t *terminal, known []receipt.Checkpoint) error {
	result, err := ledger.Verify(ctx, b.Direct, b.store, known, progress(t.err, "events checked"))
	if err != nil {
		return err
	}
	if f := result.First; f != nil {
		return &verdictError{fmt.Errorf("%w: %s (%d faults in all, this is the first)", receipt.ErrRefuted, f, result.Faults), statusRefuted}
	}
	last := slices.MaxFunc(known, func(a, b receipt.Checkpoint) int { return int(a.Size - b.Size) })
	fmt.Fprintf(t.out, "Proven: the first %d events of the log %s are those that were signed, and nothing is wrong with any of the %d events.\n", last.Size, last.Origin, result.Size)
	fmt.Fprintf(t.out, "Compared with %d checkpoints: the latest of the database, the one in the signer's file if there is one, and those of --since.\n", len(known))
	fmt.Fprintf(t.out, "%d events wait for their index.\n", result.Pending)
	fmt.Fprint(t.out, logNotCovered)
	if result.Unopened > 0 {
		return &verdictError{fmt.Errorf("%w: the keys of the owners of %d events are gone or cannot be opened, so their sealed values were not compared", receipt.ErrCannotTell, result.Unopened), statusCannotTell}
	}
	return nil
}

// logNotCovered says what a check of the log cannot find.
const logNotCovered = `Not covered: the column tx, the owner of events whose ciphertext was erased, and events after the last of these
checkpoints that somebody with the rights of the database's owner has added, removed or replaced. Without a checkpoint from outside
the database, its return to an older state is not found.
`
