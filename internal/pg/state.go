package pg

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/errcode"
)

// These errors are states of the database in which a statement fails although the
// statement is right. The same statement may succeed later.
var (
	// ErrUnavailable means that the server is starting, is stopping, has cut the
	// connection, or does not answer in time.
	ErrUnavailable = errcode.New("unavailable", "the database does not answer")

	// ErrReadOnly means that the server accepts no writes, like a standby. In a failover
	// the new primary accepts them.
	ErrReadOnly = errcode.New("database_read_only", "the database is read-only")

	// ErrExhausted means that the server lacks disk space, memory or connections, or that
	// its disk fails. Other statements may succeed meanwhile.
	ErrExhausted = errcode.New("database_exhausted", "the database lacks disk space, memory or connections")

	// ErrContended means that the server has ended the statement in favour of another
	// statement, or because the statement waited or ran too long.
	ErrContended = errcode.New("database_contended", "the statement met other statements or took too long")
)

// meaning is what an error of the server means for the service.
type meaning struct {
	state error  // one of the states above; nil is a fault of the service or of its set-up
	after after  // what happens to the connection and to a process that starts
	why   string // for the runbook
}

// after says what happens after an error, besides the answer to the client.
type after int

const (
	keeps after = iota // the connection is used again, and a process that starts tries again
	drops              // the connection is closed, and a process that starts tries again
	stops              // the connection is not made, and a process that starts gives up
)

// meanings has a row for each SQLSTATE, or class of SQLSTATEs, that is a state of the
// database. The longest key that a SQLSTATE begins with applies. All other SQLSTATEs are
// faults of the service or of its set-up: their requests are answered 500 and logged as
// errors.
var meanings = map[string]meaning{
	"08":    {ErrUnavailable, drops, "connection exception, also of a pooler"},
	"0A000": {ErrUnavailable, drops, "a migration has changed the result of a prepared statement"},
	"25006": {ErrReadOnly, drops, "the server is read-only"},
	"25P03": {ErrUnavailable, drops, "the server has ended a transaction that was idle"},
	"25P04": {ErrContended, drops, "the server has ended a transaction that took too long"},
	"26":    {ErrUnavailable, drops, "the server no longer has a prepared statement"},
	"28":    {ErrUnavailable, stops, "the server refuses the user or the password"},
	"3D":    {ErrUnavailable, stops, "the database does not exist"},
	"40001": {ErrContended, keeps, "serialization failure"},
	"40003": {ErrContended, keeps, "it is unknown whether the statement was carried out"},
	"40P01": {ErrContended, keeps, "deadlock"},
	"53":    {ErrExhausted, keeps, "disk full, out of memory, too many connections"},
	"55P03": {ErrContended, keeps, "the lock was not available in time"},
	"57014": {ErrContended, keeps, "the statement took too long or was cancelled by an operator"},
	"57P":   {ErrUnavailable, drops, "the server is starting or stopping, or an operator has ended the connection"},
	"58":    {ErrExhausted, keeps, "the server's disk or operating system fails"},
	"72":    {ErrContended, keeps, "the snapshot is too old"},
}

// meaningOf returns the meaning of a SQLSTATE.
func meaningOf(code string) meaning {
	for n := len(code); n > 0; n-- {
		if m, ok := meanings[code[:n]]; ok {
			return m
		}
	}
	return meaning{}
}

// State returns the state of the database that has caused an error. It is ErrUnavailable,
// ErrReadOnly, ErrExhausted or ErrContended, or nil if the error has another cause. The
// failed statement may have been carried out nevertheless.
func State(err error) error {
	_, state := stateOf(err)
	return state
}

// Unavailable reports whether an error comes from a state of the database that may end by
// itself. A retry may succeed. The failed statement may have been carried out
// nevertheless.
func Unavailable(err error) bool {
	next, state := stateOf(err)
	return state != nil && next != stops
}

// stateOf returns what happens after an error, and the state of the database.
func stateOf(err error) (after, error) {
	for _, state := range []error{ErrUnavailable, ErrReadOnly, ErrExhausted, ErrContended} {
		if errors.Is(err, state) {
			return keeps, state
		}
	}
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return drops, ErrReadOnly
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		m := meaningOf(pgErr.Code)
		return m.after, m.state
	}
	if _, ok := errors.AsType[net.Error](err); ok { // context.DeadlineExceeded is a net.Error too
		return drops, ErrUnavailable
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return drops, ErrUnavailable
	}
	if unreachable(err) || pgconn.SafeToRetry(err) {
		return drops, ErrUnavailable
	}
	return keeps, nil
}

// transient reports whether a new attempt to connect may succeed. In this case the
// server is starting, is full, is read-only, or does not listen yet.
func transient(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		m := meaningOf(pgErr.Code)
		return m.state != nil && m.after != stops
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return true
	}
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok {
		return dnsErr.IsTemporary
	}
	return unreachable(err) || errors.Is(err, pgconn.ErrReadOnlyConnection)
}

// unreachable reports whether the server does not listen or the connection has ended.
func unreachable(err error) bool {
	for _, e := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, os.ErrNotExist, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
