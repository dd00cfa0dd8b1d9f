package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"text/tabwriter"

	"colophon/internal/console"
	"colophon/model/catalog"
	"colophon/model/gpt2/hub"
	"colophon/model/opticks"
)

type listCmd struct {
	dataFlags
	modelDirFlags
}

// Run lists the models. It verifies every pulled model, so it reads all files of such a
// model.
func (c *listCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	models := c.dir(c.Data)
	out := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "NAME\tSIZE\tTYPE\tCONTEXT\tLICENCE\tREVISION\tSTATE")
	built, err := catalog.Describe(opticks.Files())
	if err != nil {
		return err
	}
	built.Licence = "apache-2.0" // the files are part of this program
	writeModel(out, catalog.BuiltIn, built, "", "built in")
	for _, r := range slices.Concat(known, hub.Pulled(models)) {
		if err := c.list(ctx, out, r); err != nil {
			return err
		}
	}
	return out.Flush()
}

// list writes the line of a release.
func (c *listCmd) list(ctx context.Context, out io.Writer, r hub.Release) error {
	models := c.dir(c.Data)
	dir := r.Dir(models)
	state := "verified, in " + dir
	recorded, err := r.Recorded(models)
	if err == nil {
		err = recorded.Verify(ctx, os.DirFS(dir))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var d catalog.Description
	if _, statErr := os.Stat(dir); errors.Is(statErr, fs.ErrNotExist) {
		state = "not pulled"
		d.Size = r.Size()
	} else if err != nil {
		state = fmt.Sprintf("damaged, in %s: %v", dir, err)
		d.Size = recorded.Size()
	} else if d, err = catalog.Describe(os.DirFS(dir)); err != nil {
		state = fmt.Sprintf("cannot be run, in %s: %v", dir, err)
	}
	writeModel(out, r.Name, d, recorded.Revision, state)
	return nil
}

// writeModel writes a line. Values that are not known are hyphens.
func writeModel(out io.Writer, name string, d catalog.Description, revision, state string) {
	or := func(known bool, text string) string {
		if known {
			return text
		}
		return "-"
	}
	fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name,
		or(d.Size > 0, console.Megabytes(d.Size)),
		or(d.Types != "", d.Types),
		or(d.Context > 0, fmt.Sprint(d.Context)),
		or(d.Licence != "", d.Licence),
		or(revision != "", fmt.Sprintf("%.12s", revision)),
		state)
}
