package gpt2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"colophon/internal/strictjson"
)

const (
	weightsName = "model.safetensors"
	indexName   = "model.safetensors.index.json"

	maxIndex  = 64 << 20 // largest size in bytes of the index
	maxShards = 1000
)

// A weightsFile is an open safetensors file.
type weightsFile struct {
	name  string
	data  io.ReaderAt
	size  int64
	close func() error
}

// openWeights opens model.safetensors. If there is none, it opens the files that
// model.safetensors.index.json names, in the order of their names, and returns the file
// of each tensor.
func openWeights(fsys fs.FS) (files []*weightsFile, index map[string]string, err error) {
	f, err := openFile(fsys, weightsName)
	if err == nil {
		return []*weightsFile{f}, nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	b, indexErr := readFile(fsys, indexName, maxIndex)
	if errors.Is(indexErr, fs.ErrNotExist) {
		return nil, nil, withAdvice(fsys, err)
	}
	if indexErr != nil {
		return nil, nil, indexErr
	}
	if index, err = ParseIndex(b); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", indexName, err)
	}
	for _, name := range Shards(index) {
		f, err := openFile(fsys, name)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
	}
	return files, index, nil
}

// withAdvice returns an error that says how to convert the weights, if they are there in a
// format that is not read. Otherwise it returns err.
func withAdvice(fsys fs.FS, err error) error {
	for _, name := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json"} {
		if _, statErr := fs.Stat(fsys, name); statErr == nil {
			return fmt.Errorf("%w; %s is a pickle, which can run code when it is read, so convert it with transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)", err, name)
		}
	}
	return err
}

// Shards returns the names of the files in an index, in order.
func Shards(index map[string]string) []string {
	return slices.Compact(slices.Sorted(maps.Values(index)))
}

// ParseIndex reads model.safetensors.index.json and returns the name of the file that has
// each tensor. The files are in the directory of the index.
func ParseIndex(b []byte) (map[string]string, error) {
	index := map[string]string{}
	err := strictjson.Object(bytes.NewReader(b), func(name string, value []byte) error {
		if name != "weight_map" {
			return nil
		}
		err := strictjson.Object(bytes.NewReader(value), func(tensor string, value []byte) error {
			var file string
			if json.Unmarshal(value, &file) != nil || !isShard(file) {
				return fmt.Errorf("tensor %q is in %s, want the name of a safetensors file", short(tensor), short(string(value)))
			}
			if len(index) == maxTensors {
				return fmt.Errorf("more than %d tensors", maxTensors)
			}
			index[tensor] = file
			return nil
		})
		return jsonError("tensor", err)
	})
	if err != nil {
		return nil, jsonError("member", err)
	}
	n := len(Shards(index))
	if n == 0 || n > maxShards {
		return nil, fmt.Errorf("weight_map names %d files, want 1 to %d", n, maxShards)
	}
	return index, nil
}

// isShard reports whether a name is that of a safetensors file in the same directory.
func isShard(name string) bool {
	return fs.ValidPath(name) && !strings.ContainsAny(name, `/\`) && strings.HasSuffix(name, ".safetensors") && len(name) <= 255
}

// openFile opens a safetensors file without reading it.
func openFile(fsys fs.FS, name string) (*weightsFile, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	w := &weightsFile{name: name, close: f.Close}
	if err := w.prepare(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return w, nil
}

func (w *weightsFile) prepare(f fs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	w.size = info.Size()
	var ok bool
	if w.data, ok = f.(io.ReaderAt); !ok {
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		w.data, w.size = bytes.NewReader(b), int64(len(b))
	}
	return nil
}

func closeAll(files []*weightsFile) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// digest reads the whole file and returns its SHA-256 in hex.
func (w *weightsFile) digest() (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, io.NewSectionReader(w.data, 0, w.size), make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", w.name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digestOf reads all files and returns the digest of the weights.
func digestOf(files []*weightsFile) (string, error) {
	digests := map[string]string{}
	for _, f := range files {
		var err error
		if digests[f.name], err = f.digest(); err != nil {
			return "", err
		}
	}
	return JoinDigests(digests), nil
}

// JoinDigests returns the digest of the weights in files with the given names and SHA-256
// digests in hex. The digest of one file is its SHA-256. The digest of several files is
// the SHA-256 of the lines that sha256sum prints for them, in the order of their names.
// So the command sha256sum model-*.safetensors | sha256sum prints it. The result has the
// form "sha256:<hex>". Without files it is "".
func JoinDigests(digests map[string]string) string {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		if len(digests) == 1 {
			return "sha256:" + digests[name]
		}
		fmt.Fprintf(&lines, "%s  %s\n", digests[name], name)
	}
	if len(digests) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(lines.String()))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// WeightsFiles returns the names of the files that have the weights of a model.
func WeightsFiles(fsys fs.FS) ([]string, error) {
	files, _, err := openWeights(fsys)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	return names, closeAll(files)
}

// WeightsDigest reads the weights of a model and returns what [Checkpoint.Digest]
// returns. The error wraps [fs.ErrNotExist] if the model has no weights.
func WeightsDigest(fsys fs.FS) (string, error) {
	files, _, err := openWeights(fsys)
	if err != nil {
		return "", err
	}
	digest, err := digestOf(files)
	return digest, errors.Join(err, closeAll(files))
}
