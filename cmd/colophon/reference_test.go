//go:build !race

package main

import "testing"

// TestReferenceWritesTheSameText does not run under the race detector, which also checks
// pointers: it does not accept some that GoMLX's Go backend computes.
func TestReferenceWritesTheSameText(t *testing.T) {
	if native, reference := generate(t, "--weights", "f32"), generate(t, "--engine", "gomlx"); native != reference {
		t.Errorf("native wrote %q, gomlx %q", native, reference)
	}
}
