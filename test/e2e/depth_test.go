//go:build !race

package e2e

const depth = 16 // times the layers of the built-in model
