// Package e2e tests the service as its users meet it: whole processes over one
// Postgres, called through HTTP and in a browser, killed, frozen and restarted.
//
// The tests know the program's commands, its HTTP API and its tables, and nothing
// of the packages behind them. Each has a database and processes of its own and
// runs beside the others.
package e2e
