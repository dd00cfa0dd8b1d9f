//go:build !amd64 || purego

package kernel

func newLoops() loops { return portableLoops() }
