package gpt2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// readFile reads a whole text file. It returns an error for a file of more than limit
// bytes, and for bytes that show that the file is not the text it should be.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
	case int64(len(b)) > limit:
		err = fmt.Errorf("larger than %d bytes", limit)
	default:
		err = checkText(b)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

var (
	errPointer = errors.New("this is a pointer of Git LFS, not the file: run git lfs pull where the files were cloned, or colophon model pull")
	errMark    = errors.New("the file begins with a byte-order mark: save it as UTF-8 without one")
)

// pointerStart is the start of every pointer of Git LFS (its docs/spec.md).
const pointerStart = "version https://git-lfs"

// checkText returns an error if the bytes are a pointer of Git LFS or begin with a
// byte-order mark.
func checkText(b []byte) error {
	if bytes.HasPrefix(b, []byte(pointerStart)) {
		return errPointer
	}
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(b, []byte(mark)) {
			return errMark
		}
	}
	return nil
}
