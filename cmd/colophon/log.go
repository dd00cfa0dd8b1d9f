package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/database"
)

// logFlags say whether and how a process signs the log.
type logFlags struct {
	LogState     string `type:"path" placeholder:"FILE" help:"File in which this process keeps the last checkpoint of the log that it has signed. A process with such a file signs the log, so no checkpoint is signed that contradicts an earlier one, even if the database was restored. Default: log-state in the data directory for up, none for worker ($COLOPHON_LOG_STATE)."`
	LogOrigin    string `placeholder:"NAME" help:"Name of the log in its checkpoints, such as example.com/log. Default: a random name, which is kept ($COLOPHON_LOG_ORIGIN)."`
	LogWitnesses string `type:"path" placeholder:"FILE" help:"File with the witnesses that cosign the checkpoints, a policy of c2sp.org/tlog-policy. Default: none ($COLOPHON_LOG_WITNESSES)."`
}

// signing is how a process signs the log.
type signing struct {
	state, origin string
	policy        *receipt.Policy // nil without witnesses
}

// signing returns how the process signs the log, or nil if it does not. Every error is a
// usageError.
func (r roles) signing(data string) (*signing, error) {
	if r.work == nil {
		return nil, nil
	}
	f := r.work.logFlags
	if f.LogState == "" && r.alone() {
		f.LogState = filepath.Join(data, "log-state")
	}
	if f.LogState == "" {
		if f.LogOrigin != "" || f.LogWitnesses != "" {
			return nil, &usageError{errors.New("--log-origin and --log-witnesses are for the process that signs the log: set --log-state")}
		}
		return nil, nil
	}
	s := &signing{state: f.LogState, origin: f.LogOrigin}
	if f.LogOrigin != "" && !receipt.ValidName(f.LogOrigin) {
		return nil, &usageError{fmt.Errorf("--log-origin: %w", ledger.ErrOrigin)}
	}
	if f.LogWitnesses != "" {
		var err error
		s.policy, err = readPolicy(f.LogWitnesses)
		if err == nil && !s.policy.Satisfied(func(w receipt.Witness) bool {
			return slices.ContainsFunc(s.policy.Witnesses, func(known receipt.PolicyWitness) bool { return known.Witness == w && known.URL != "" })
		}) {
			err = errors.New("the witnesses that have a URL are not enough for the quorum")
		}
		if err != nil {
			return nil, &usageError{fmt.Errorf("--log-witnesses: %w", err)}
		}
	}
	return s, nil
}

// sign starts the signer of the log, unless s is nil. The returned function stop stops it.
func (b *base) sign(ctx context.Context, s *signing) (stop func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	if _, err := ledger.ReadState(s.state); err != nil {
		return nil, err
	}
	keys := ledger.NewKeys(b.Direct, b.Vault)
	err = database.Retry(ctx, b.log, func() error { return keys.Ensure(ctx, s.origin) })
	if errors.Is(err, ledger.ErrOtherOrigin) {
		return nil, &usageError{fmt.Errorf("--log-origin: %w", err)}
	}
	if err != nil {
		return nil, err
	}
	var witnesses *ledger.Witnesses
	if s.policy != nil {
		witnesses = ledger.NewWitnesses(s.policy)
	}
	signer := ledger.NewSigner(b.Direct, keys, witnesses, b.log)
	return background(ctx, func(ctx context.Context) { signer.Run(ctx, s.state) }), nil
}

type logCmd struct {
	Verify logVerifyCmd `cmd:"" help:"Check the whole log: every event, the tree and the signed checkpoints. Status 0: proven, 1: refuted, 2: cannot tell, 64: wrong usage."`
	Begin  logBeginCmd  `cmd:"" help:"Give the log a new name and a new key, when events were lost that a checkpoint contained. The checkpoints of the new name say which checkpoint they continue."`
}

type logBeginCmd struct {
	databaseFlags
	Name     string `arg:"" help:"New name of the log, such as example.com/log-2."`
	LogState string `type:"path" placeholder:"FILE" help:"File of the process that signs. It knows the last checkpoint that was signed, which the database may have lost. Default: log-state in the data directory ($COLOPHON_LOG_STATE)."`
}

func (c *logBeginCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	last, err := readState(c.LogState, c.Data)
	if err != nil {
		return err
	}
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		from := "the state file"
		if last == nil {
			from = "the database, which may have lost later ones"
			if last, err = ledger.NewLog(b.Pool).LastPublished(ctx); err != nil {
				return err
			}
		}
		vkey, err := ledger.NewKeys(b.Pool, b.Vault).Begin(ctx, c.Name, last)
		if err != nil {
			return err
		}
		continues := "no other log"
		if last != nil {
			continues = fmt.Sprintf("%s after %d events (from %s)", last.Origin, last.Size, from)
		}
		_, err = fmt.Fprintf(t.out, "%s\nis the key of %s, which continues %s\n", vkey, c.Name, continues)
		return err
	})
}

// readState returns the checkpoint of a signer's file. An empty path means the file of up in
// the data directory, which may be missing. Then the result is nil.
func readState(path, data string) (*receipt.Checkpoint, error) {
	if path == "" {
		return ledger.ReadState(filepath.Join(data, "log-state"))
	}
	state, err := ledger.ReadState(path)
	if err == nil && state == nil {
		err = &usageError{fmt.Errorf("--log-state: %s does not exist", path)}
	}
	return state, err
}
