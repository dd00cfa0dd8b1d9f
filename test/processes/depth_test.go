//go:build !race

package processes

const depth = 8 // how often deepModel repeats the layers
