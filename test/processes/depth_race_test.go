//go:build race

package processes

const depth = 4 // the race detector makes models slow enough
