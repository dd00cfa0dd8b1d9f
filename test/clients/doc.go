// Package clients tests the service with clients that other people wrote, and with clients
// that their tools generate from the OpenAPI description.
//
// It is a module of its own, because the product must not depend on these clients. Directory
// npm has the clients for Node, pinned by its lock file, and their scenarios. Directory
// generated is a module of its own too: it has the generators for Go, and programs that use
// what they generate. Nothing generated is committed. Run everything with
//
//	npm --prefix test/clients/npm ci
//	go -C test/clients test -count=1 ./... -report ../../docs/reports/clients.md
//
// The tests start the real program, on loopback only. A scenario is a test in a file of its
// client's kind that calls [scenario], or a test of Node's test runner; the report has one row for
// each. -count=1 is needed, because go test does not see changes outside of this module.
//
// Streams are cut at random bytes. The log has the seed of these points, and -seed takes it. The
// specification of OpenResponses is not in this repository: if ../shared/openresponses is not
// beside the clone, the report says that nothing was checked against its schema.
package clients
