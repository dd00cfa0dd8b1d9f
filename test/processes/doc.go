// Package processes tests several processes of one service over one Postgres. The tests
// kill, freeze and drain these processes, and cut them off from the database. The
// processes must also share limits.
//
// The tests know the program's commands, its HTTP API and its tables. They know nothing
// of the packages behind these. Each test has a database and processes of its own and
// runs in parallel with the other tests.
package processes
