//go:build !race

package main

import "testing"

// TestReferenceWritesTheSameText generates a text with both engines. The texts must be
// equal. It does not run with -race, whose pointer checks reject pointers that GoMLX's Go
// backend computes.
func TestReferenceWritesTheSameText(t *testing.T) {
	if native, reference := generate(t, "--weights", "f32"), generate(t, "--engine", "gomlx"); native != reference {
		t.Errorf("native wrote %q, gomlx %q", native, reference)
	}
}
