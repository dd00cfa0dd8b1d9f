// Package e2e tests the service as its users meet it: the whole program as one
// process over Postgres, called through HTTP and in a browser.
//
// The tests know the program's commands, its HTTP API and its tables, and nothing
// of the packages behind them. Each has a database and a process of its own and
// runs in parallel with the others. Package processes tests several processes of one
// service.
package e2e
