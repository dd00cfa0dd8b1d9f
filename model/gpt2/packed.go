package gpt2

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"colophon/model/kernel"
)

// A file of packed weights has the memory of a network as it is, so that a load only reads it. Its
// parts are
//
//	one line of text, which packedLine describes
//	the SHA-256 of each chunk
//	the chunks
//
// A chunk is up to chunkBytes of the memory of one tensor. The tensors are in the order of
// network.memory.
const (
	chunkBytes    = 4 << 20
	maxPackedLine = 1024
)

// packedLine returns the first line of a file. It names everything on which the bytes
// after it depend: the weights and their format, how they are packed, the byte order of the
// machine, and the digest of the digests.
func packedLine(info string, digests []byte) string {
	order := "little"
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = "big"
	}
	sum := sha256.Sum256(digests)
	return fmt.Sprintf("colophon packed weights 1 %s %s %s %s\n", info, kernel.Packing, order, hex.EncodeToString(sum[:]))
}

// memory yields the memory of all tensors.
func (n *network) memory(yield func([]byte) bool) {
	for _, v := range [][]float32{n.positions, n.finalNorm.gain, n.finalNorm.bias} {
		if !yield(kernel.BytesOf(v)) {
			return
		}
	}
	for _, b := range n.blocks {
		for _, v := range []norm{b.attentionNorm, b.feedForwardNorm} {
			if !yield(kernel.BytesOf(v.gain)) || !yield(kernel.BytesOf(v.bias)) {
				return
			}
		}
	}
	matrices := n.matrices
	if n.Untied {
		matrices = func(yield func(*kernel.Matrix) bool) {
			if yield(n.embedding) {
				n.matrices(yield)
			}
		}
	}
	for m := range matrices {
		if weights, bias := m.Memory(); !yield(weights) || !yield(bias) {
			return
		}
	}
}

// chunks returns the chunks of a network's memory.
func (n *network) chunks() (chunks [][]byte) {
	for b := range n.memory {
		for len(b) > 0 {
			some := b[:min(len(b), chunkBytes)]
			chunks = append(chunks, some)
			b = b[len(some):]
		}
	}
	return chunks
}

// NewPacked is like [New], but it reads the weights from a file that [Engine.WritePacked]
// has written. The weights of the checkpoint must have the given digest. NewPacked does not
// read them. It returns an error that wraps [os.ErrNotExist] if there is no such file, and
// another error if the file has other weights, or was written for another format or by
// another version, or is damaged.
func NewPacked(ck *Checkpoint, tok *Tokenizer, opts Options, path, digest string) (*Engine, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	threads := cmp.Or(opts.Threads, runtime.GOMAXPROCS(0))
	n := newNetwork(ck.Config, opts.Weights)
	info := n.info(digest)
	if err := n.read(path, info, threads); err != nil {
		return nil, fmt.Errorf("read packed weights: %w", err)
	}
	return start(n, tok, opts, info, threads), nil
}

// read reads a file of packed weights into the memory of a network.
func (n *network) read(path, info string, threads int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	chunks := n.chunks()
	digests := make([]byte, sha256.Size*len(chunks))
	line, err := bufio.NewReader(io.LimitReader(f, maxPackedLine)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: the first line: %w", path, err)
	}
	at := int64(len(line))
	if _, err := f.ReadAt(digests, at); err != nil {
		return fmt.Errorf("%s: the digests: %w", path, err)
	}
	if want := packedLine(info, digests); line != want {
		return fmt.Errorf("%s begins with %q, want %q", path, line, want)
	}
	at += int64(len(digests))
	var tasks []func(*buffer) error
	for i, chunk := range chunks {
		begin := at
		tasks = append(tasks, func(*buffer) error {
			if _, err := f.ReadAt(chunk, begin); err != nil {
				return fmt.Errorf("%s: chunk %d of %d: %w", path, i+1, len(chunks), err)
			}
			if sum := sha256.Sum256(chunk); !bytes.Equal(sum[:], digests[i*sha256.Size:][:sha256.Size]) {
				return fmt.Errorf("%s: chunk %d of %d does not have its digest", path, i+1, len(chunks))
			}
			return nil
		})
		at += int64(len(chunk))
	}
	err = runAll(threads, tasks)
	runtime.KeepAlive(n) // the chunks may be outside Go's heap, and go with the network
	return err
}

// unfinished is the end of the names of files that are being written. A process that ends
// at such a moment leaves the file, and one that comes an hour later removes it.
const unfinished = ".part"

// WritePacked writes the packed weights into a file, for [NewPacked]. It replaces an older
// file at once, and creates the directory if necessary. Several processes may write the same
// file at the same time.
func (e *Engine) WritePacked(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write packed weights: %w", err)
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// If the name of the directory is a pattern itself, nothing is found and the files stay.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasSuffix(entry.Name(), unfinished) && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(filepath.Join(dir, entry.Name())) // another process may have removed it
		}
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*"+unfinished)
	if err != nil {
		return err
	}
	err = errors.Join(e.network.write(f, e.info.Weights), f.Sync(), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// write writes the file of a network.
func (n *network) write(w io.Writer, info string) error {
	defer runtime.KeepAlive(n) // as in read
	chunks := n.chunks()
	var digests []byte
	for _, chunk := range chunks {
		sum := sha256.Sum256(chunk)
		digests = append(digests, sum[:]...)
	}
	_, err := io.WriteString(w, packedLine(info, digests))
	for _, part := range append([][]byte{digests}, chunks...) {
		if err != nil {
			return err
		}
		_, err = w.Write(part)
	}
	return err
}
