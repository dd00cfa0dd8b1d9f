package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"colophon/model/gpt2"
	"colophon/model/gpt2/hub"
)

// Verify compares the pulled files of a published model with the published digests. For
// any other model it prints the digests and checks that the program can load the model. It
// prints a line for each good file, and its error names the other files. Verify pulls
// nothing. The error for an unknown name is a [NotFoundError].
func (l Library) Verify(ctx context.Context, name string, out io.Writer) error {
	r, ok := l.Releases.Named(name)
	if !ok {
		r, ok = l.recorded(name)
	}
	if ok {
		return verifyRelease(ctx, out, r, l.Dir)
	}
	found, err := Library{Releases: l.Releases}.Find(ctx, name)
	if err != nil {
		return err
	}
	var wrong []error
	for _, file := range Files(found.Files) {
		size, digest, err := DigestOf(found.Files, file)
		if errors.Is(err, fs.ErrNotExist) && file == "model.safetensors" {
			_, err = gpt2.WeightsFiles(found.Files) // says what to do with weights in another format
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Fprintf(out, "%-17s  sha256:%s  %d bytes\n", file, digest, size)
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("%s cannot be loaded: %w", name, err)
	}
	config, err := found.Verify(ctx)
	if err != nil {
		return fmt.Errorf("%s cannot be loaded: %w", name, err)
	}
	if files, err := gpt2.WeightsFiles(found.Files); err == nil && len(files) > 1 {
		digest, err := found.WeightsDigest()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-17s  %s\n", "all weights", digest)
	}
	_, err = fmt.Fprintf(out, "%s can be loaded: %d layers of %d heads, %d wide, %d token ids, context %d\n",
		found.Name, config.Layers, config.Heads, config.Embd, config.Vocab, config.Context)
	return err
}

// verifyRelease prints a line for each good file of a release. Its error names the other
// files.
func verifyRelease(ctx context.Context, out io.Writer, r hub.Release, models string) error {
	dir := r.Dir(models)
	pinned := r.Pinned()
	_, err := os.Stat(dir)
	if err == nil {
		r, err = r.Recorded(models)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not in %s: run colophon model pull %[1]s", r.Name, dir)
	}
	if err != nil {
		return err
	}
	as := "as published"
	if !pinned {
		as = "as at the first pull"
	}
	var wrong []error
	for _, f := range r.Files {
		digest, err := r.Check(ctx, os.DirFS(dir), f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Fprintf(out, "%-17s  sha256:%s  %s\n", f.Name, digest, as)
	}
	if wrong != nil {
		return fmt.Errorf("%s in %s is not %s (colophon model pull %[1]s replaces damaged files): %[4]w", r.Name, dir, as, errors.Join(wrong...))
	}
	_, err = fmt.Fprintf(out, "%s in %s is %s at revision %s\n", r.Name, dir, r.Repo, r.Revision)
	return err
}
