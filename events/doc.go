// Package events is the record of what happened: facts are appended to
// streams, never changed, and everything else is derived from them.
//
// What a caller may rely on:
//
//   - Order. The events of a stream have the versions 1, 2, 3 … without a gap.
//     Whoever appends says which version it has seen; if the stream has moved
//     on, the append is refused with [ErrConflict] and nothing is written.
//   - Atomicity. [Store.Write] is one database transaction: events, the history
//     view and whatever else the caller does in it appear together or not at all.
//   - Delivery. [Store.Follow] yields every event of a stream once, in order,
//     from any version on, whichever process appended it. Announcements travel
//     by LISTEN/NOTIFY after the commit; one that is lost delays a reader by a
//     beat and loses nothing.
//   - Once. A stream that is opened under an [IdempotencyKey] is opened once,
//     however often and from wherever the request comes in a day.
//   - Secrecy. Prompts, texts and user names are stored only as ciphertext under
//     their owner's key (package vault), in the log and in the view.
//   - Legality. A [Job] is a pure fold of its events, and [Job.Apply] refuses a
//     fact that cannot follow; illegal facts are not appended.
//
// A [Store] is safe for concurrent use. Events that it returns may be shared
// between readers and must not be modified.
package events
