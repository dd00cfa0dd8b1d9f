// Package interop tests the log of events with clients that other people wrote: fsck and the
// client of tessera, and the client and the policies of torchwood.
//
// It is a module of its own, because the product must not depend on these clients. Run it
// with
//
//	go -C test/interop test -count=1 ./...
//
// The tests build the program of the product from its own module. The log has 100,000 events,
// and 3,000 with -short. -count=1 is needed, because go test does not see changes outside of
// this module.
package interop
