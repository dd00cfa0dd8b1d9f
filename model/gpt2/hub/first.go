package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"colophon/model/gpt2"
)

// defaultRevision is the branch of a repository that is pulled without a revision.
const defaultRevision = "main"

// list asks the hub for the files of a release that is not pinned.
func (s *server) list(ctx context.Context, r Release, staging string, note func(string)) (string, map[string]File, error) {
	revision := r.Revision
	if revision == "" {
		revision = defaultRevision
	}
	u := s.base.JoinPath("api/models", r.Repo, "revision", url.PathEscape(revision))
	u.RawQuery = "blobs=true"
	path := filepath.Join(staging, r.flat()+".list")
	defer os.Remove(path)
	if err := fetch(ctx, source{s, File{Name: "the list of files"}, u.String()}, path, func(int64) {}, note); err != nil {
		return "", nil, fmt.Errorf("%w (is %s the name of a GPT-2 there, and %s a revision?)", err, r.Repo, revision)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	commit, files, err := parseListing(b)
	if err != nil {
		return "", nil, fmt.Errorf("list the files of %s: %w", r.Repo, err)
	}
	return commit, files, nil
}

// pullFirst pulls a release that is not pinned, and records its files. It fetches the
// weights last, when the other files have shown that the engine can run them.
func (p *puller) pullFirst(ctx context.Context, r Release) error {
	commit, files, err := p.server.list(ctx, r, filepath.Join(p.models, stagingDir), p.Note)
	if err != nil {
		return err
	}
	first, weights, err := choose(files)
	if err != nil {
		return fmt.Errorf("%s at %.12s: %w", r.Repo, commit, err)
	}
	r.Revision, r.Files = commit, append(first, weights)
	staging, err := p.stage(r)
	if err != nil {
		return err
	}
	fsys := os.DirFS(staging)
	var done int64
	get := func(f File) error {
		if err := p.stageFile(ctx, staging, r, f, done); err != nil {
			return err
		}
		done += f.Size
		return nil
	}
	for _, f := range first {
		if err := get(f); err != nil {
			return err
		}
	}
	_, configErr := gpt2.ReadConfig(fsys)
	_, tokenizerErr := gpt2.ReadTokenizer(fsys)
	if err := errors.Join(configErr, tokenizerErr); err != nil {
		return fmt.Errorf("%s at %.12s cannot be run: %w", r.Repo, commit, err)
	}
	if weights.Name == indexFile {
		if err := get(weights); err != nil {
			return err
		}
		index, err := os.ReadFile(filepath.Join(staging, indexFile))
		if err != nil {
			return err
		}
		parts, err := shards(index, files)
		if err != nil {
			return fmt.Errorf("%s at %.12s: %w", r.Repo, commit, err)
		}
		r.Files = append(r.Files, parts...)
	}
	for _, f := range r.Files[len(first):] {
		if f.Name == indexFile {
			continue
		}
		if err := get(f); err != nil {
			return err
		}
	}
	checkpoint, err := gpt2.ReadCheckpoint(fsys)
	if err != nil {
		return fmt.Errorf("%s at %.12s cannot be run: %w", r.Repo, commit, err)
	}
	if err := errors.Join(checkpoint.Close(), writeRecord(ctx, staging, r)); err != nil {
		return err
	}
	return install(staging, r.Dir(p.models), nil)
}

// writeRecord writes the record of a release whose files are complete.
func writeRecord(ctx context.Context, staging string, r Release) error {
	entry := record{Repository: r.Repo, Revision: r.Revision}
	for _, f := range r.Files {
		if f.SHA256 == "" {
			var err error
			if f.SHA256, err = r.Check(ctx, os.DirFS(staging), f); err != nil {
				return err
			}
		}
		entry.Files = append(entry.Files, recordItem(f))
	}
	b, err := json.MarshalIndent(entry, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(staging, recordFile))
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
