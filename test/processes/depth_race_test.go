//go:build race

package processes

const depth = 4 // fewer layers, because the race detector makes the model slow enough
