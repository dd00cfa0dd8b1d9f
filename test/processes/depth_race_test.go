//go:build race

package processes

const depth = 4 // fewer repeated layers than without -race, because the race detector makes the model slow enough
