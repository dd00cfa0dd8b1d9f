//go:build !race

package processes

const depth = 8 // number of times that deepModel repeats the layers of the built-in model
