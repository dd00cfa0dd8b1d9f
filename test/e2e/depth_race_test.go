//go:build race

package e2e

const depth = 4 // the race detector makes models slow enough
