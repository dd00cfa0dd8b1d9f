package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestProgramHasNoChaosCommand shows that the released program cannot inject faults. Only
// the program test/chaos can inject faults.
//
// security: ASVS 15.2.3
func TestProgramHasNoChaosCommand(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(t.Context(), []string{"chaos"}, noEnvironment, strings.NewReader(""), &out, &out)
	if _, usage := errors.AsType[*usageError](err); !usage {
		t.Errorf("chaos: %v", err)
	}
}
