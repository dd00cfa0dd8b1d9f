// Package contract tests that the service does what its OpenAPI document says.
//
// The tests know the service from outside only. They start the program's api and worker
// processes over a database of their own and send requests over real connections. They
// take the document from the service. They read the database to find the changes that a
// request has made. They never write to the database.
//
// The tests take the operations from the document. A new route is therefore covered at
// once, by valid requests, invalid requests, sequences of requests, and the access
// matrix. Only the operations that need no access token are listed here a second time, on
// purpose.
//
// The long run is
//
//	go test ./test/contract -run TestContract -requests 200000 -seed 1 -v
//
// A run of 20,000 requests or more fails in two cases. The first is a mutation that
// applies to an operation and was never tried on it. The second is a part of an operation
// that was never mutated.
//
// TestServiceSurvivesHostileRequests also sends requests that no HTTP client would send,
// and checks only whether the service survives. Its long run is
//
//	COLOPHON_TEST_HOSTILE_REQUESTS=1000000 go test ./test/contract -run TestServiceSurvivesHostileRequests -seed 1 -timeout 1h -v
package contract
