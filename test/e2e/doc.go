// Package e2e tests the service as its users meet it. The tests run the whole program as
// one process over Postgres, and call it through HTTP and in a browser.
//
// The tests know the program's commands, its HTTP API and its tables. They know nothing
// of the packages behind these. Each test has a database and a process of its own and
// runs in parallel with the other tests. Package processes tests several processes of one
// service.
package e2e
