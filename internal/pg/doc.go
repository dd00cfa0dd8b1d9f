// Package pg reaches PostgreSQL: Connect opens a pool to a named server, and Start
// runs a private server where none is named.
//
// Callers may rely on these properties:
//
//   - Start may be called by any number of processes at once for one directory.
//     One of them starts the server, and all others get the running one. Only the
//     process that started it stops it.
//   - The private server listens on a unix socket in a directory of mode 0700
//     and on no network address. On Linux it ends when the process that started it
//     ends, however that happens, and committed data survives.
//   - A directory is either a complete cluster or none: the next start begins an
//     interrupted first start again.
//   - Nothing in this package writes a password into an error or a log.
//
// All functions are safe for concurrent use.
package pg
