package console

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestLongLinesAreRefused reads lines around the largest length. A longer line must be
// refused, because a part of a password is another password.
func TestLongLinesAreRefused(t *testing.T) {
	longest := strings.Repeat("a", maxLine)
	for _, end := range []string{"", "\n", "\r\n", "\nnext line\n"} {
		if line, err := ReadLine(t.Context(), strings.NewReader(longest+end)); err != nil || line != longest {
			t.Errorf("%q after the longest line: %d bytes, %v", end, len(line), err)
		}
		if line, err := ReadLine(t.Context(), strings.NewReader(longest+"b"+end)); !errors.Is(err, ErrLongLine) || line != "" {
			t.Errorf("%q after a longer line: %d bytes, %v", end, len(line), err)
		}
	}
	if _, err := ReadPassword(t.Context(), strings.NewReader(longest+"b\n"), io.Discard); !errors.Is(err, ErrLongLine) || strings.Contains(err.Error(), "aaa") {
		t.Errorf("a long password: %v", err)
	}
}
