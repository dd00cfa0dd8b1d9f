// Package contract tests that the service does what its OpenAPI document says.
//
// The tests know the service from outside only. They start the program's api and
// worker processes over a database of their own, send requests over real
// connections, and read the document that the service serves. The database is read
// to see what a request has changed; it is never written.
//
// The tests take the operations from the document, so a new route is covered on
// the day it is added: by valid requests, invalid requests and sequences of
// requests, and by the matrix of which caller may do what to whose objects. Only
// the list of operations that need no access token is written down here a second
// time, on purpose.
//
// The long run is
//
//	go test ./test/contract -run TestContract -requests 200000 -seed 1 -v
//
// From 20,000 requests on, a run fails if a mutation was never tried on an
// operation that it applies to, or if a part of an operation was never mutated.
package contract
