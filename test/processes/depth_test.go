//go:build !race

package processes

const depth = 8 // how many times deepModel repeats the layers
