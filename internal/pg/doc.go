// Package pg connects to PostgreSQL. Connect opens a pool of connections to a server
// that the caller names. Start runs a private server for a caller who names none.
//
// Callers may rely on these properties:
//
//   - A commit on a connection of Connect survives a crash of the server and a failover to
//     a synchronous standby, unless the server has fsync off. [UnsafeSettings] and
//     [LosesAtFailover] tell. Every connection leads to a server that accepts writes.
//   - [State] tells the states of a database, such as a full disk, from other errors.
//   - A [Clock] has the database's time, whatever the clock of this process says.
//   - Any number of processes may call Start at once for one directory. One process
//     starts the server, and all other processes get the running server. Only the
//     process that started the server stops it. The others learn of the end through
//     [Cluster.Exited].
//   - The private server listens on a unix socket in a directory of mode 0700
//     and on no network address. On Linux, the server ends when the process that
//     started it ends in any way. Committed data survives.
//   - A directory contains either a complete cluster or no cluster. If the first start
//     was interrupted, the next start begins again.
//   - A copy of a directory does not use the server of the original. Start uses the copy's
//     own files, or returns an error.
//   - Root may start the cluster of a user. The user can start it afterwards, and cannot
//     make root change a file outside the directory.
//   - Nothing in this package writes a password into an error or a log.
//
// All functions are safe for concurrent use.
package pg
