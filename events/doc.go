// Package events is the append-only log of jobs and accounts. Facts are appended to
// streams and never changed. Everything else is derived from them.
//
// A [Store] appends with [Store.AppendJob], or with [Store.Write] together with other
// changes. It reads with [Store.Read], [Store.Follow], [Store.Job] and [Store.History].
//
// Callers may rely on these properties:
//
//   - Order. The events of a stream have the versions 1, 2, 3 … without a gap. An
//     append to a job names the last version that the writer has seen. If the stream
//     ends at another version, the append returns [ErrConflict] and writes nothing.
//   - Atomicity. [Store.Write] is one database transaction: events, the history
//     view and the caller's other changes are committed together or not at all.
//   - Delivery. [Store.Follow] yields every event of a stream once and in order, from
//     any version on. Other processes announce their appends by LISTEN/NOTIFY after
//     the commit. A lost announcement delays a reader by one heartbeat and loses
//     nothing.
//   - Idempotency. A request with an [IdempotencyKey] opens one stream, even if it
//     arrives many times within a day, at any process.
//   - Secrecy. Prompts, texts and user names are stored only as ciphertext under
//     their owner's key (package vault), in the log and in the view. [Store.Erase]
//     destroys the key. The events stay and still fold, with [Event.Erased] set.
//   - Legality. A [Job] is a pure fold of its events. A fact that cannot follow is
//     refused with [ErrIllegal] and not appended.
//
// A [Store] is safe for concurrent use. Events that it returns may be shared
// between readers and must not be modified.
package events
