//go:build !race

package e2e

const depth = 8 // times the layers of the built-in model
