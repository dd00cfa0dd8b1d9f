package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"colophon/model/gpt2"
)

// DigestOf reads a file of a model and returns its size and its SHA-256 in hex.
func DigestOf(files fs.FS, name string) (size int64, digest string, err error) {
	f, err := files.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return 0, "", fmt.Errorf("read %s: %w", name, err)
	}
	return size, fmt.Sprintf("%x", h.Sum(nil)), nil
}

// Size returns the size in bytes of a model's files.
func Size(files fs.FS) (int64, error) {
	var size int64
	for _, name := range Files(files) {
		info, err := fs.Stat(files, name)
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

// Verify reads all files of a model in the same way as an engine, and checks that every
// weight is finite. It returns the shape of the network, and one error that joins all
// problems.
func (m Model) Verify(ctx context.Context) (gpt2.Config, error) {
	var problems []error
	_, err := gpt2.ReadTokenizer(m.Files)
	if err != nil {
		problems = append(problems, err)
	}
	checkpoint, err := gpt2.ReadCheckpoint(m.Files)
	if err != nil {
		return gpt2.Config{}, errors.Join(append(problems, err)...)
	}
	defer checkpoint.Close()
	config := checkpoint.Config
	for name := range config.Tensors() {
		if err := ctx.Err(); err != nil {
			return config, errors.Join(append(problems, err)...)
		}
		values, err := checkpoint.Tensor(name)
		if err != nil {
			return config, errors.Join(append(problems, fmt.Errorf("read the weights: %w", err))...)
		}
		for i, v := range values {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				problems = append(problems, fmt.Errorf("value %d of tensor %q is %v", i, name, v))
				break
			}
		}
	}
	return config, errors.Join(problems...)
}
