//go:build !race

package main

import "testing"

// TestReferenceWritesTheSameText generates a text with the native engine and with the
// reference engine, GoMLX. The texts must be equal. The test does not run with -race,
// whose pointer checks reject pointers that GoMLX's Go backend computes.
func TestReferenceWritesTheSameText(t *testing.T) {
	if native, reference := generate(t, "--weights", "f32"), generate(t, "--engine", "gomlx"); native != reference {
		t.Errorf("native wrote %q, gomlx %q", native, reference)
	}
}
