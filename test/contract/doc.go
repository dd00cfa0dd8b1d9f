// Package contract tests that the service does what its OpenAPI document says.
//
// The tests know the service from outside only. They start the program's api and
// worker processes over their own database, send requests over real connections, and
// read the document that the service serves. They read the database to find the
// changes that a request has made. They never write to it.
//
// The tests take the operations from the document, so a new route is covered at once:
// by valid requests, invalid requests, sequences of requests, and the access matrix.
// Only the operations that need no access token are listed here a second time, on
// purpose.
//
// The long run is
//
//	go test ./test/contract -run TestContract -requests 200000 -seed 1 -v
//
// A run of 20,000 requests or more fails if a mutation was never tried on an operation
// that it applies to, or if a part of an operation was never mutated.
package contract
