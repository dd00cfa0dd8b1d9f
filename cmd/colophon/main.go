// Command colophon is a text-generation service in which every text has its
// history on record. `colophon up` runs all of it; the other commands are its
// parts and its tools.
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

	"github.com/alecthomas/kong"

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
	if _, ok := errors.AsType[*usageError](err); ok {
		os.Exit(2)
	}
	os.Exit(1)
}

// untilSignal returns a context that is done at the first SIGINT or SIGTERM. The second
// one, however soon, ends the process at once.
func untilSignal() context.Context {
	ctx, stop := context.WithCancelCause(context.Background())
	told := make(chan os.Signal, 2)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	go func() {
		stop(fmt.Errorf("%s signal received", <-told))
		again := <-told
		number, _ := again.(syscall.Signal)
		os.Exit(128 + int(number)) // as a shell reports who died of it
	}()
	return ctx
}

// usageError is a mistake in the arguments or the environment.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + " (see colophon --help)" }
func (e *usageError) Unwrap() error { return e.err }

// cli is every command, flag and default.
type cli struct {
	Up       upCmd       `cmd:"" help:"Run the whole service in one process: the quick start."`
	API      apiCmd      `cmd:"" name:"api" help:"Serve HTTP; workers run elsewhere."`
	Worker   workerCmd   `cmd:"" help:"Run queued jobs."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database to this version's schema."`
	Generate generateCmd `cmd:"" help:"Continue a prompt here and now, without a server and without its text policy."`
	Model    modelCmd    `cmd:"" help:"Pull, verify and look into models."`
	User     userCmd     `cmd:"" help:"Make accounts, and say what they may do."`
	History  historyCmd  `cmd:"" help:"Look after the history view."`
	Keys     keysCmd     `cmd:"" help:"Look after the keys that sign access tokens."`
	Bench    benchCmd    `cmd:"" help:"Measure how fast it is, beside what the machine can do."`
	OpenAPI  openAPICmd  `cmd:"" name:"openapi" help:"Print the OpenAPI description of the API."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	LogLevel slog.Level `default:"info" help:"Least level to log: debug, info, warn or error ($COLOPHON_LOG_LEVEL)."`
}

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// run parses the arguments and runs the command that they name until it returns, which
// a serving command does when ctx is done. It reads nothing of the process but its
// arguments.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("colophon"),
		kong.Description("Text generation in which every text has its history on record."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }), // --help
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
		return &usageError{err}
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(catalog.Releases(hub.Releases()))
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	return parsed.Run(&terminal{stdin, stdout, stderr}, log)
}

// environment resolves flags that are not given: from the variable named by the
// flag's tag env, else COLOPHON_ and the flag's name.
func environment(lookup func(string) (string, bool)) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("var")
		if name == "" {
			name = "COLOPHON_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		}
		if value, ok := lookup(name); ok && value != "" {
			return value, nil
		}
		return nil, nil
	})
}
