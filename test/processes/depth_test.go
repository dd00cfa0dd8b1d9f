//go:build !race

package processes

const depth = 8 // how often the model has the layers of the built-in one
