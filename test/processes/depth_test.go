//go:build !race

package processes

const depth = 8 // times the layers of the built-in model
