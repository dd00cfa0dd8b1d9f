// Command colophon is a text-generation service that records the history of every
// text. `colophon up` runs the whole service. The other commands run its parts and
// its tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"colophon/internal/database"
	"colophon/model/catalog"
	"colophon/model/gpt2/hub"
)

func main() {
	ctx := untilSignal()
	err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "colophon:", err)
	os.Exit(status(err))
}

// status returns the exit status for an error of run.
func status(err error) int {
	if verdict, ok := errors.AsType[*verdictError](err); ok {
		return verdict.status
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	if _, ok := errors.AsType[*pendingError](err); ok {
		return 3
	}
	return 1
}

// untilSignal returns a context that is done at the first SIGINT or SIGTERM. A second
// signal ends the process at once.
func untilSignal() context.Context {
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		stop(fmt.Errorf("%s signal received", <-signals))
		second := <-signals
		number, _ := second.(syscall.Signal)
		os.Exit(128 + int(number)) // the exit status that shells report for a process killed by this signal
	}()
	return ctx
}

// usageError is a mistake in the arguments or in the environment. The program then ends
// with status 2, or 64 if the command checks evidence.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + " (see colophon --help)" }
func (e *usageError) Unwrap() error { return e.err }

// pendingError says which part of a command's work is still to be done. The program then
// ends with status 3.
type pendingError struct{ err error }

func (e *pendingError) Error() string { return e.err.Error() }
func (e *pendingError) Unwrap() error { return e.err }

// cli declares every command, flag and default.
type cli struct {
	Up       upCmd            `cmd:"" help:"Run the whole service in one process (quick start)."`
	API      apiCmd           `cmd:"" name:"api" help:"Serve the HTTP API; workers are separate processes."`
	Worker   workerCmd        `cmd:"" help:"Run queued jobs; any number of workers share one database."`
	Migrate  migrateCmd       `cmd:"" help:"Migrate the database to the schema of this version."`
	Generate generateCmd      `cmd:"" help:"Generate text from a prompt in this process, without a server and without a text policy."`
	Model    modelCmd         `cmd:"" help:"Pull, verify and inspect models."`
	User     userCmd          `cmd:"" help:"Manage accounts."`
	Key      keyCmd           `cmd:"" help:"Create, list and revoke API keys of an account."`
	Queue    queueCmd         `cmd:"" help:"Show, reassign and cancel the jobs that wait for weights that no worker has."`
	History  historyCmd       `cmd:"" help:"Check and rebuild the history view, and list damaged streams."`
	Keys     keysCmd          `cmd:"" help:"Rotate the keys that sign access tokens and the log, the master key, and the data keys of accounts."`
	Log      logCmd           `cmd:"" help:"Manage the signed log of all events."`
	Verify   verifyReceiptCmd `cmd:"" help:"Verify a receipt offline. Status 0: proven, 1: refuted, 2: cannot tell, 64: wrong usage."`
	Replay   replayCmd        `cmd:"" help:"Re-execute jobs and compare every token with the record. Status 0: proven, 1: refuted, 2: cannot tell, 64: wrong usage."`
	Detect   detectCmd        `cmd:"" help:"Look for the watermark of an account in a text. Status 0: found, 1: not found, 2: cannot tell, 64: wrong usage."`
	Witness  witnessCmd       `cmd:"" help:"Cosign the checkpoints of logs that only grow. A witness needs no database."`
	Bench    benchCmd         `cmd:"" help:"Measure the speed of the engine and of the service."`
	OpenAPI  openAPICmd       `cmd:"" name:"openapi" help:"Print the OpenAPI description of the API."`
	Version  versionCmd       `cmd:"" help:"Print the version, or the bill of materials."`

	LogLevel slog.Level `default:"info" help:"Lowest level to log: debug, info, warn or error ($COLOPHON_LOG_LEVEL)."`
}

// terminal holds the standard streams of a command.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// progress returns a function that prints how much of a long task is done, at most once a
// second.
func progress(w io.Writer, what string) func(done, total int) {
	shown := time.Now()
	return func(done, total int) {
		if time.Since(shown) >= time.Second {
			shown = time.Now()
			fmt.Fprintf(w, "%d of %d %s\n", done, total, what)
		}
	}
}

// run parses the arguments and runs the command that they name. A command that serves
// returns when ctx is done. run reads arguments, streams and the environment variables of
// flags from its parameters only.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("colophon"),
		kong.Description("A text-generation service that records the history of every text."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }), // kong calls this function after it has printed the help
		kong.Resolvers(environment(env)),
	)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if exited {
		return nil
	}
	if err != nil {
		if failed, ok := errors.AsType[*kong.ParseError](err); ok {
			return forEvidence(failed.Context.Command(), &usageError{err})
		}
		return &usageError{err}
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(catalog.Releases(hub.Releases()))
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	err = parsed.Run(&terminal{stdin, stdout, stderr}, log)
	if _, ok := errors.AsType[*database.OptionError](err); ok {
		err = &usageError{err}
	}
	return forEvidence(parsed.Command(), err)
}

// environment returns a resolver that reads the values of flags from environment
// variables. The tag var of a flag names its variable. Without this tag, the variable is
// COLOPHON_ and the name of the flag. A flag with the tag var:"-" has no variable. An empty
// variable counts as unset.
func environment(lookup func(string) (string, bool)) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("var")
		if name == "-" {
			return nil, nil
		}
		if name == "" {
			name = "COLOPHON_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		}
		if value, ok := lookup(name); ok && value != "" {
			return value, nil
		}
		return nil, nil
	})
}
