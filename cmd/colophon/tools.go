package main

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"colophon/api"
)

type openAPICmd struct{}

// Run prints the description as YAML.
func (openAPICmd) Run(t *terminal) error {
	yaml, err := api.Description()
	if err != nil {
		return err
	}
	_, err = t.out.Write(yaml)
	return err
}

type versionCmd struct {
	SBOM bool `name:"sbom" help:"Print what the program was made of, as CycloneDX."`
}

// Run prints what the build knows of itself.
func (c versionCmd) Run(t *terminal) error {
	if c.SBOM {
		info, _ := debug.ReadBuildInfo()
		return writeBOM(t.out, info)
	}
	version, revision := "unknown", "unknown revision"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	_, err := fmt.Fprintf(t.out, "colophon %s (%s)\n", version, revision)
	return err
}

type historyCmd struct {
	Rebuild rebuildCmd `cmd:"" help:"Make the history view anew from the events."`
}

type rebuildCmd struct {
	databaseFlags
	Check bool `help:"Only compare the view with the events, and fail if they differ."`
}

// Run rebuilds or checks the view.
func (c *rebuildCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) error {
	return c.with(ctx, log, false, defaultGrace, func(ctx context.Context, b *base) error {
		if !c.Check {
			n, err := b.store.RebuildHistory(ctx, func(jobs int) { fmt.Fprintf(t.err, "%d jobs folded\n", jobs) })
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.out, "the history view has %d rows, made from the events\n", n)
			return err
		}
		jobs, wrong, err := b.store.CheckHistory(ctx)
		if err != nil {
			return err
		}
		for _, id := range wrong {
			fmt.Fprintf(t.out, "differs %s\n", id)
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%d rows of the history view differ from the events of %d jobs: colophon history rebuild mends them", len(wrong), jobs)
		}
		_, err = fmt.Fprintf(t.out, "the history view agrees with the events of %d jobs\n", jobs)
		return err
	})
}
