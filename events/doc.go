// Package events is the append-only record of jobs and accounts. Facts are
// appended to streams and never changed, and everything else is derived from them.
//
// Callers may rely on these properties:
//
//   - Order. The events of a stream have the versions 1, 2, 3 … without a gap. A
//     writer names the version it has seen. If the stream has moved on, the append
//     is refused with [ErrConflict] and nothing is written.
//   - Atomicity. [Store.Write] is one database transaction: events, the history
//     view and the caller's other changes appear together or not at all.
//   - Delivery. [Store.Follow] yields every event of a stream once, in order, from
//     any version on, whichever process appended it. Announcements travel by
//     LISTEN/NOTIFY after the commit. A lost announcement delays a reader by one
//     heartbeat and loses nothing.
//   - Idempotency. A stream that is opened under an [IdempotencyKey] is opened
//     once, however often a request arrives within a day, at any process.
//   - Secrecy. Prompts, texts and user names are stored only as ciphertext under
//     their owner's key (package vault), in the log and in the view.
//   - Legality. A [Job] is a pure fold of its events. [Job.Apply] refuses a fact
//     that cannot follow, and illegal facts are not appended.
//
// A [Store] is safe for concurrent use. Events that it returns may be shared
// between readers and must not be modified.
package events
