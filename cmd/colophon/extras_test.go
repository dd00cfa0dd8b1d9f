//go:build !chaos

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// The program that is shipped cannot be told to break things: what does that is
// not in it.
//
// security: ASVS 15.2.3
func TestTheProgramHasNoExtras(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"chaos"}, noEnvironment, strings.NewReader(""), &out, &out)
	if _, usage := errors.AsType[*usageError](err); !usage {
		t.Errorf("chaos: %v", err)
	}
}
