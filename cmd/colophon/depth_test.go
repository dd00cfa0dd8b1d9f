//go:build !race

package main

const depth = 16 // times the layers of the built-in model
