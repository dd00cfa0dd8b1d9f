//go:build !amd64 || purego

package kernel

func newLoops() loops { return portableLoops() }

// readAll reads p, except for the last few bytes.
func readAll(p []byte) { readPortably(p) }
