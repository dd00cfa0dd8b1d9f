// Package pg reaches PostgreSQL: Connect opens a pool to a server that somebody
// names, and Start runs a private server for those who named none.
//
// What a caller may rely on:
//
//   - Start may be called by any number of processes at once for one directory.
//     One of them starts the server, all others get the one that runs. Only the
//     one that started it stops it.
//   - The private server listens on a unix socket in a directory of mode 0700
//     and on no network address; it ends when the process that started it ends,
//     however that happens (Linux), and what was committed survives.
//   - A directory is either a complete cluster or none: an interrupted first
//     start is begun again by the next one.
//   - Nothing in this package writes a password into an error or a log.
//
// All functions may be called from several goroutines.
package pg
