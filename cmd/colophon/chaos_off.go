//go:build !chaos

package main

// extras are the commands that a build tag adds: none.
type extras struct{}
