// Package hub fetches published models from the Hugging Face hub, or a server
// with the same layout, and verifies them by their SHA-256 digests.
//
// After [Pull], a model is either absent or complete and verified. Pull resumes an
// interrupted pull at the byte where it ended, whatever the reason. Pulls of one model
// exclude each other, also between processes. Servers are not trusted. Pull never
// writes more bytes than were published, and removes data with another digest.
package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"reflect"
	"strings"

	"colophon/model/gpt2"
)

// A Release identifies the files of a published model.
type Release struct {
	Name     string      // name for users
	Repo     string      // repository on the hub, such as "openai-community/gpt2"
	Revision string      // commit in the repository; for a release that is not pinned, any revision, or "" for the main branch
	Config   gpt2.Config // network that a config.json without a digest must describe; the zero value means any
	Files    []File      // the files are fetched in this order; nil for a release that is not pinned
}

// A File is a file of a release.
type File struct {
	Name   string
	Size   int64  // size in bytes; 0 if it is not known
	SHA256 string // in hex; empty if it is not known
}

const (
	configFile  = "config.json"
	weightsFile = "model.safetensors"
	indexFile   = "model.safetensors.index.json"

	maxConfig = 1 << 20 // largest size in bytes of a config.json
)

// Releases returns all releases that can be pulled by name. The small files of a
// release come first, so that a wrong server is noticed early. Those without files are
// not pinned.
func Releases() []Release {
	releases := []Release{{
		Name:     "gpt2",
		Repo:     "openai-community/gpt2",
		Revision: "607a30d783dfa663caf39e06633721c8d4cfcd7e",
		Config:   gpt2.Published(),
		Files: []File{
			{Name: configFile},
			{"vocab.json", 1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"},
			{"merges.txt", 456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"},
			{weightsFile, 548_105_171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"},
		},
	}}
	for _, repo := range []string{
		"openai-community/gpt2-medium", "openai-community/gpt2-large", "openai-community/gpt2-xl", "distilbert/distilgpt2",
		"microsoft/DialoGPT-small", "microsoft/DialoGPT-medium", "microsoft/DialoGPT-large",
	} {
		releases = append(releases, Release{Name: path.Base(repo), Repo: repo})
	}
	return releases
}

// Size returns the size in bytes of all files of known size.
func (r Release) Size() int64 {
	var n int64
	for _, f := range r.Files {
		n += f.Size
	}
	return n
}

// Weights returns the digest of the weights in the form of
// [gpt2.Checkpoint.Digest].
func (r Release) Weights() string {
	digests := map[string]string{}
	for _, f := range r.Files {
		if f.isWeights() {
			digests[f.Name] = f.SHA256
		}
	}
	return gpt2.JoinDigests(digests)
}

func (f File) isWeights() bool { return strings.HasSuffix(f.Name, ".safetensors") }

// Check reads a whole file and compares it with the published file. It returns the
// file's SHA-256 in hex, and an error if the file differs. The error wraps
// [fs.ErrNotExist] if there is no such file.
func (r Release) Check(ctx context.Context, fsys fs.FS, f File) (digest string, err error) {
	in, err := open(fsys, f)
	if err != nil {
		return "", err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &contextReader{ctx, in}, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name, err)
	}
	digest = hex.EncodeToString(h.Sum(nil))
	if f.SHA256 == "" {
		return digest, r.checkConfig(fsys)
	}
	return digest, f.compare(digest)
}

// Verify reads all files and returns the error of the first file that differs from the
// published file.
func (r Release) Verify(ctx context.Context, fsys fs.FS) error {
	for _, f := range r.Files {
		if _, err := r.Check(ctx, fsys, f); err != nil {
			return err
		}
	}
	return nil
}

// Present checks all files of a model, but only the size of the weights. The caller
// that loads the weights must compare their digest with [Release.Weights].
func (r Release) Present(ctx context.Context, fsys fs.FS) error {
	for _, f := range r.Files {
		if !f.isWeights() {
			if _, err := r.Check(ctx, fsys, f); err != nil {
				return err
			}
			continue
		}
		in, err := open(fsys, f)
		if err != nil {
			return err
		}
		in.Close()
	}
	return nil
}

// open opens a regular file of the published size.
func open(fsys fs.FS, f File) (fs.File, error) {
	in, err := fsys.Open(f.Name)
	if err != nil {
		return nil, err
	}
	info, err := in.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", f.Name)
	case !f.sized() && info.Size() > maxConfig:
		err = fmt.Errorf("%s has %d bytes, too large for a config", f.Name, info.Size())
	case f.sized() && info.Size() != f.Size:
		err = fmt.Errorf("%s has %d bytes, the published one %d", f.Name, info.Size(), f.Size)
	}
	if err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// sized reports whether the size of the file is known.
func (f File) sized() bool { return f.Size > 0 || f.SHA256 != "" }

// compare returns an error unless digest is the published digest of the file.
func (f File) compare(digest string) error {
	if digest != f.SHA256 {
		return fmt.Errorf("%s has the SHA-256 %s, the published one %s", f.Name, digest, f.SHA256)
	}
	return nil
}

// checkConfig returns an error unless config.json describes the published network, if
// that is known.
func (r Release) checkConfig(fsys fs.FS) error {
	if r.Config.Vocab == 0 {
		return nil
	}
	c, err := gpt2.ReadConfig(configFS{fsys})
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(c, r.Config) {
		return errors.New("config.json describes a network that is not the published one")
	}
	return nil
}

// configFS is a file system that has only config.json. A generation_config.json beside it is
// the user's.
type configFS struct{ fs.FS }

func (c configFS) Open(name string) (fs.File, error) {
	if name != configFile {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return c.FS.Open(name)
}

// A contextReader reads from r until its context is done, and then returns the cause.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (u *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
