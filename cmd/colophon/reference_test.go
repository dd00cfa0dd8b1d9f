//go:build !race

package main

import "testing"

// TestTheReferenceWritesTheSame is not for the race detector: it checks pointers
// as well, and GoMLX's Go backend computes some that it does not accept.
func TestTheReferenceWritesTheSame(t *testing.T) {
	if native, reference := generate(t, "--weights", "f32"), generate(t, "--engine", "gomlx"); native != reference {
		t.Errorf("native wrote %q, gomlx %q", native, reference)
	}
}
