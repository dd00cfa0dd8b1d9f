package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/receipt"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/model"
	"colophon/model/catalog"
)

type replayCmd struct {
	databaseFlags
	sourceFlags
	Policy string  `placeholder:"FILE" help:"File of the text policy of the service. Default: the built-in one ($COLOPHON_POLICY)."`
	Job    string  `arg:"" optional:"" help:"Id of the job."`
	All    bool    `help:"Replay all jobs that have ended, instead of one job."`
	Since  instant `placeholder:"TIME" help:"With --all: only jobs that have ended at this time or later, such as 2026-11-29 (in UTC) or 2026-11-29T17:27:00Z."`
	Sample float64 `default:"1" placeholder:"SHARE" help:"With --all: replay each of these jobs with this probability, above 0 and up to 1. The choice is random and differs each time."`
	Decode bool    `help:"Decode token by token, as a worker does, instead of computing many recorded tokens at once. The result is the same, and takes several times as long."`
}

// instant is a time in an argument. The zero value means the beginning.
type instant struct{ time.Time }

// UnmarshalText reads a time of RFC 3339, or a date.
func (i *instant) UnmarshalText(text []byte) (err error) {
	if i.Time, err = time.Parse(time.DateOnly, string(text)); err == nil {
		return nil
	}
	if i.Time, err = time.Parse(time.RFC3339, string(text)); err != nil {
		return errors.New("want a date such as 2026-11-29, or a time such as 2026-11-29T17:27:00Z")
	}
	return nil
}

// check returns a usageError for arguments that do not fit together.
func (c *replayCmd) check() (job uuid.UUID, err error) {
	switch {
	case c.All == (c.Job != ""):
		err = errors.New("want the id of a job, or --all")
	case !(c.Sample > 0 && c.Sample <= 1):
		err = fmt.Errorf("--sample is %g, want a number above 0 and up to 1", c.Sample)
	case !c.All && (c.Sample != 1 || !c.Since.IsZero()):
		err = errors.New("--since and --sample need --all")
	case !c.All:
		if job, err = uuid.Parse(c.Job); err != nil {
			err = fmt.Errorf("<job>: %w", err)
		}
	}
	if err != nil {
		return job, &usageError{err}
	}
	return job, nil
}

// Run replays one job or many, while the service runs.
func (c *replayCmd) Run(ctx context.Context, t *terminal, log *slog.Logger, known catalog.Releases) error {
	job, err := c.check()
	if err != nil {
		return err
	}
	rules, err := policy.NewWatcher(c.Policy, log)
	if err != nil {
		return &usageError{fmt.Errorf("--policy: %w", err)}
	}
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	engines := &replayEngines{source: source}
	defer engines.close()
	r := &jobs.Replayer{Engine: engines.get, Rules: rules.Rules(), Ahead: jobs.ReplayAhead}
	if c.Decode {
		r.Ahead = 1
	}
	return c.with(ctx, log, func(ctx context.Context, b *base) error {
		r.WatermarkKey = b.store.FindWatermarkKey
		if c.All {
			return b.replayAll(ctx, t, r, c.Since.Time, c.Sample)
		}
		return b.replayOne(ctx, t, r, job)
	})
}

// replayEngines load the engines of a model, one at a time. Jobs of one service rarely differ
// in the format of their weights.
type replayEngines struct {
	source catalog.Model

	options catalog.LoadOptions
	loaded  catalog.Engine // nil before the first load and after an error
	err     error          // of the last load
}

// get returns the engine for the format and the arithmetic of an attempt. Whether its weights
// are those of the attempt, the engine's Info says.
func (e *replayEngines) get(_ context.Context, s events.JobStarted) (model.Engine, error) {
	o := catalog.LoadOptions{GoMLX: strings.HasPrefix(s.Kernel, "gomlx/"), Sequences: 1}
	_, format, _ := strings.Cut(s.Weights, "/")
	format, _, _ = strings.Cut(format, "+") // the variant of the network, which follows the format, is not chosen here
	if err := o.Weights.UnmarshalText([]byte(format)); err != nil {
		return nil, err
	}
	if e.loaded == nil && e.err == nil || o != e.options {
		e.close()
		e.options = o
		e.loaded, e.err = e.source.Load(o)
	}
	return e.loaded, e.err
}

func (e *replayEngines) close() {
	if e.loaded != nil {
		e.loaded.Close()
		e.loaded = nil
	}
}

// replay reads and replays a job. A job that does not exist is a Replay with a reason why it
// cannot be compared. So is a job that this program cannot read. A damaged job differs. An
// error is that of the database or of ctx.
func (b *base) replay(ctx context.Context, r *jobs.Replayer, job uuid.UUID) (jobs.Replay, error) {
	stored, err := b.store.Read(ctx, events.JobStream(job), 0)
	if d, ok := errors.AsType[*events.Damage](err); ok {
		if errors.Is(d, events.ErrDamaged) {
			return jobs.Replay{Difference: &jobs.Difference{Reason: fmt.Sprintf("event %d is damaged: %s", d.Version, d.Reason)}}, nil
		}
		return jobs.Replay{Unknown: []string{d.Reason}}, nil
	}
	if err != nil {
		return jobs.Replay{}, err
	}
	if len(stored) == 0 {
		return jobs.Replay{Unknown: []string{"the job does not exist"}}, nil
	}
	result, err := r.Job(ctx, stored)
	if errors.Is(err, vault.ErrUnreadable) || errors.Is(err, vault.ErrErased) { // erased since the events were read
		result.Unknown, err = []string{"the owner's watermark key cannot be opened"}, nil
	}
	return result, err
}

// replayOne replays one job and prints the result.
func (b *base) replayOne(ctx context.Context, t *terminal, r *jobs.Replayer, job uuid.UUID) error {
	result, err := b.replay(ctx, r, job)
	switch {
	case err != nil:
		return err
	case result.Difference != nil:
		return &verdictError{fmt.Errorf("%w: job %s: %s", receipt.ErrRefuted, job, result.Difference), statusRefuted}
	case result.Unknown != nil:
		if result.Equal > 0 {
			if err := showReplay(t.out, r, result); err != nil {
				return err
			}
		}
		return &verdictError{fmt.Errorf("%w: job %s: %s", receipt.ErrCannotTell, job, strings.Join(result.Unknown, "; ")), statusCannotTell}
	case result.Empty():
		return &verdictError{fmt.Errorf("%w: job %s is %s and has no token on record", receipt.ErrCannotTell, job, result.Job.State), statusCannotTell}
	}
	return showReplay(t.out, r, result)
}

// showReplay prints a result without a difference.
func showReplay(out io.Writer, r *jobs.Replayer, result jobs.Replay) error {
	var b strings.Builder
	j := result.Job
	switch {
	case result.Unknown != nil:
		fmt.Fprint(&b, "Nothing differs, but a part could not be compared: the reason is below.\n\n")
	case j.State == events.Completed:
		fmt.Fprint(&b, "Proven: the model gives the recorded tokens and the recorded text again.\n\n")
	default:
		fmt.Fprintf(&b, "Proven for what is on record: the model gives the recorded tokens and their text again. The job is %s.\n\n", j.State)
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, printable(value)) }
	row("job", j.ID.String())
	row("tokens", fmt.Sprintf("%d of %d are equal", result.Equal, len(j.Tokens)))
	if j.State == events.Completed {
		row("end", fmt.Sprintf("by the rule %q", j.FinishReason))
	}
	row("attempts", fmt.Sprint(j.Attempts))
	row("model", j.Model)
	row("weights", j.Weights)
	row("arithmetic", j.Kernel)
	if w := j.Watermark; w != (events.Watermark{}) {
		row("watermark", fmt.Sprintf("executed with the key %s (%s), without which nobody can execute the text again", w.Key, w.Parameters))
	}
	if result.Unknown == nil {
		row("text policy", r.Rules.Version())
	}
	for _, note := range result.Notes {
		row("note", note)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	b.WriteString(replayNotCovered)
	_, err := io.WriteString(out, b.String())
	return err
}

// replayNotCovered says what a replay cannot find.
const replayNotCovered = `
Not covered: whether these events are those of the signed log, which colophon log verify checks, and the check of the
prompt when the job was accepted.
`
