// Package ledger puts the events of all streams into one order, the log, computes the log's
// Merkle tree, and signs it.
//
// A [Sequencer] orders the events. A [Signer] publishes checkpoints of the tree, with the keys
// of [Keys] and the cosignatures of [Witnesses]. A [Log] reads what is published, proves
// that it contains an event, and finds the jobs that have ended. [Verify] checks the whole log.
//
// A [Sequencer] gives each committed event an index: 0, 1, 2 … Callers may rely on these
// properties:
//
//   - No gap and no repeat. The indexes are dense, and each event has one index, which never
//     changes. A reader that has read up to an index misses no event before it.
//   - Order. The events of a stream have increasing indexes. Events of different streams are
//     in the order in which they were found. Those that are found together, mostly of the
//     last 50 ms, are in the order of their inserts.
//   - Atomicity. The index of an event, its hash and the complete subtrees of the tree are
//     committed together. They are never changed.
//   - Concurrency. Any number of processes may run a Sequencer. One of them works at a time.
//     When it dies, another one goes on.
//
// An event gets its index usually within 200 ms after its commit, and later if all workers
// are down. Until then, readers of its own stream see it, and readers of the log do not.
//
// A checkpoint continues all earlier checkpoints of its name that the signer knows: the last
// one in the database, and the one in the file of its [Guard]. The events of a published
// checkpoint survive a failover to a synchronous standby.
package ledger
