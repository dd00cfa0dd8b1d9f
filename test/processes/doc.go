// Package processes tests several processes of one service over one Postgres. They
// are killed, frozen, drained and cut off from the database, and share limits.
//
// The tests know the program's commands, its HTTP API and its tables, and nothing
// of the packages behind them. Each has a database and processes of its own and
// runs in parallel with the others.
package processes
