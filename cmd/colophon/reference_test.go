//go:build !race

package main

import "testing"

// TestReferenceWritesTheSameText does not run with -race. The pointer checks of -race
// reject pointers that GoMLX's Go backend computes.
func TestReferenceWritesTheSameText(t *testing.T) {
	if native, reference := generate(t, "--weights", "f32"), generate(t, "--engine", "gomlx"); native != reference {
		t.Errorf("native wrote %q, gomlx %q", native, reference)
	}
}
