// Package events is the append-only log of jobs and accounts. Facts are appended to
// streams and are never changed. All other state is derived from the facts.
//
// A [Store] appends facts with [Store.AppendJob]. With [Store.Write], it appends facts
// together with other changes. It reads events with [Store.Read], [Store.Follow],
// [Store.Job] and [Store.History].
//
// Callers may rely on these properties:
//
//   - Order. The events of a stream have the versions 1, 2, 3 … without a gap. An
//     append to a job names the last version that the writer has seen. If the stream
//     ends at another version, the append returns [ErrConflict] and writes nothing.
//   - Atomicity. [Store.Write] is one database transaction: events, the history
//     view and the caller's other changes are committed together or not at all.
//   - Delivery. [Store.Follow] yields every event after a given version of a stream,
//     exactly once and in order. A process announces its appends to the other
//     processes by LISTEN/NOTIFY, after the commit. A lost announcement delays a
//     reader by one heartbeat, but no event is lost. [Store.FollowFeed] does the same
//     for all events of an owner, in the order of the log.
//   - Idempotency. A request with an [IdempotencyKey] opens only one stream, even if
//     the request arrives many times within a day and at several processes.
//   - Secrecy. In the log and in the view, prompts, texts and user names are stored
//     only as ciphertext under their owner's key (package vault). [Store.Erase]
//     destroys the key. The fact [JobErased] empties the ciphertext of one job, in the
//     transaction that appends it. The events remain and can still be folded, with
//     [Event.Erased] set.
//   - Legality. A [Job] is a pure fold of its events. A fact that cannot follow the
//     earlier events is refused with [ErrIllegal] and is not appended.
//   - Damage. The first reader of an event that cannot be used sets its stream aside.
//     Reading the event and appending to its job return [ErrDamaged]. Other streams go
//     on.
//   - Time. The times of events are the database's. In a stream they never decrease.
//
// A [Store] is safe for concurrent use. Events that it returns may be shared
// between readers and must not be modified.
package events
