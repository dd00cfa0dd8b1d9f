package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"colophon/events/receipt"
	"colophon/internal/monitor"
)

// audit checks a remote log through its tiles. It needs no database.
func (c *logVerifyCmd) audit(ctx context.Context, t *terminal, earlier []string, trusted receipt.Keys) error {
	policy := &receipt.Policy{}
	if c.Policy != "" {
		var err error
		if policy, err = readPolicy(c.Policy); err != nil {
			return &usageError{fmt.Errorf("--policy: %w", err)}
		}
	}
	for _, l := range policy.Logs {
		trusted = append(trusted, l.Key)
	}
	url, err := c.remote(policy)
	if err != nil {
		return err
	}
	errOut := &lockedWriter{w: t.err}
	log, err := monitor.Open(url, nil, func(text string) { fmt.Fprintln(errOut, printable(text)) })
	if err != nil {
		return &usageError{fmt.Errorf("--url: %w", err)}
	}
	signed, err := log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	now, err := monitor.OpenCheckpoint(signed, trusted)
	if errors.Is(err, monitor.ErrSignature) {
		return &verdictError{fmt.Errorf("%w: the checkpoint of %s: %w", receipt.ErrRefuted, log, err), statusRefuted}
	}
	if err != nil {
		return fmt.Errorf("the checkpoint of %s: %w", log, err)
	}
	known, err := c.earlier(now.Origin, earlier, trusted)
	if err != nil {
		return err
	}
	result, err := log.Audit(ctx, now.Checkpoint, known, progress(errOut, "events checked"))
	if f := result.First; f != nil {
		return &verdictError{fmt.Errorf("%w: %s (%d faults in all; the checkpoint has %d events and the root %s)", receipt.ErrRefuted, f, result.Faults, now.Size, now.Root), statusRefuted}
	}
	if err != nil {
		return err
	}
	return showAudit(t.out, log, now, policy, result, len(known), missing(now, policy, trusted))
}

// remote returns the URL of the log: that of --url, or the only one of the policy's logs.
func (c *logVerifyCmd) remote(policy *receipt.Policy) (string, error) {
	if c.URL != "" {
		return c.URL, nil
	}
	var urls []string
	for _, l := range policy.Logs {
		if l.URL != "" && !slices.Contains(urls, l.URL) {
			urls = append(urls, l.URL)
		}
	}
	if len(urls) != 1 {
		return "", &usageError{fmt.Errorf("--policy: its logs have %d URLs: name the URL of the log with --url", len(urls))}
	}
	return urls[0], nil
}

// earlier returns the checkpoints of --since, and the one of --log-state if it is given.
func (c *logVerifyCmd) earlier(origin string, texts []string, trusted receipt.Keys) (known []receipt.Checkpoint, err error) {
	add := func(path string, earlier receipt.Checkpoint) error {
		if earlier.Origin != origin {
			return fmt.Errorf("%s is of the log %s, and this one is %s", path, earlier.Origin, origin)
		}
		known = append(known, earlier)
		return nil
	}
	for i, text := range texts {
		signed, err := monitor.OpenCheckpoint(text, trusted)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Since[i], err)
		}
		if err := add(c.Since[i], signed.Checkpoint); err != nil {
			return nil, err
		}
	}
	if c.LogState != "" {
		state, err := readState(c.LogState, "")
		if err == nil {
			err = add(c.LogState, *state)
		}
		if err != nil {
			return nil, err
		}
	}
	return known, nil
}

// missing returns what keeps the result from being proven, or nil.
func missing(c receipt.SignedCheckpoint, policy *receipt.Policy, trusted receipt.Keys) error {
	valid := policy.Cosigned(c)
	switch {
	case len(trusted) == 0:
		return errors.New("no signature was verified: give the log's key with --key, from a source that you trust")
	case !policy.Satisfied(func(w receipt.Witness) bool { _, ok := valid[w]; return ok }):
		return errors.New("the checkpoint lacks cosignatures that the policy wants")
	}
	return nil
}

// showAudit prints the result of an audit that has found no fault.
func showAudit(out io.Writer, log *monitor.Log, c receipt.SignedCheckpoint, policy *receipt.Policy, a *monitor.Audit, earlier int, missing error) error {
	origin := printable(c.Origin)
	if missing == nil {
		fmt.Fprintf(out, "Proven: the log %s has exactly the entries of its signed checkpoint (number of events: %d).\n", origin, c.Size)
	} else {
		fmt.Fprintf(out, "Nothing is wrong with the log %s (number of events: %d), but it is not proven: the reason is below.\n", origin, c.Size)
	}
	fmt.Fprintf(out, "All entries (%d) and all tiles of hashes (%d) of %s were fetched, and the tree was computed again.\n", a.Entries, a.Tiles, log)
	if earlier > 0 {
		fmt.Fprintf(out, "The log begins with the entries of the earlier checkpoints (%d).\n", earlier)
	} else {
		fmt.Fprintln(out, "No earlier checkpoint was given (--since), so nothing shows that the log has lost or changed no events before.")
	}
	for w, s := range policy.Cosigned(c) {
		if at, err := receipt.CosignatureTime(s); err == nil {
			fmt.Fprintf(out, "Cosigned by %s at %s.\n", printable(w.Name()), at.Format(time.RFC3339))
		}
	}
	fmt.Fprint(out, remoteNotCovered)
	if missing != nil {
		return &verdictError{fmt.Errorf("%w: %w", receipt.ErrCannotTell, missing), statusCannotTell}
	}
	return nil
}

// remoteNotCovered says what a check of a remote log cannot find.
const remoteNotCovered = `Not covered: the events themselves. An entry is the hash of an event and says nothing of it, so this check does not show
that the events are well-formed, that each names the one before it, or that a job has one stream: "colophon log verify"
shows that in the database. Events that wait for their checkpoint are not covered either. The service may show another
log of the same name to others, unless witnesses that --policy demands have cosigned this one.
`

// lockedWriter makes each write to w complete before the next one begins.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
