// Command chaos shows that an accepted job is a finished job, whatever happens to
// the processes that work on it.
//
//	go run ./test/chaos --jobs 120 --kills 25 --for 75s
//
// It starts a service of its own: a private Postgres, API and worker processes of
// the program, and a [Proxy] on every way between them. It submits jobs with fixed
// seeds and lets clients follow them. For a time it kills, freezes, restarts and
// cuts off all of these at moments that a seed decides. Then it waits until every
// job has ended, reads what is on record, and compares each job, and what each
// client has seen of it, with the text that an engine generates undisturbed.
//
// The checks are plain functions of what clients saw and what is on record. Their
// tests try them on results that have been tampered with: a checker that cannot
// fail shows nothing.
//
// The seed decides the moments of the faults. It does not decide what they hit,
// because processes and connections have timings of their own. The same seed
// makes the same faults and the same jobs, not the same run.
package main
