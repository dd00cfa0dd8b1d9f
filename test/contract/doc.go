// Package contract holds the evidence that the service keeps to its own
// description: tests that know it only as its clients do, by HTTP and by the
// OpenAPI document that it serves.
//
// It has no code of its own. What is in the document is exercised without being
// named here, so that a new route is covered on the day it is added: by requests
// that are valid, invalid and in sequence, by the matrix of who may do what to
// whose objects, and by the list of what is open to all, which is the one thing
// that is written down twice on purpose.
//
// The long run is
//
//	go test ./test/contract -run TestContract -requests 200000 -seed 1 -v
//
// and fails, from 20,000 requests on, if there is an operation, or a part of one,
// that was not tried with everything that can be done to it.
package contract
