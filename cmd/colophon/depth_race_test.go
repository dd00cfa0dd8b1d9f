//go:build race

package main

const depth = 4 // the race detector makes models slow enough
