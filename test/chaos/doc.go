// Command chaos tests that every accepted job finishes, even when the processes that run
// it are killed, frozen or cut off.
//
//	go run ./test/chaos --jobs 120 --kills 25 --for 75s
//
// It starts a service of its own. This service has a private Postgres with a synchronous
// standby, API and worker processes, and a [Proxy] on every connection between them. The
// command submits jobs with fixed seeds, and clients follow these jobs. Meanwhile it
// kills, freezes, restarts and cuts off the processes and Postgres, promotes the standby,
// makes Postgres read-only, sets its clock, starts workers with a wrong master key and
// damages stored events. When every job has ended, the command compares the stored events
// and the observations of each client with the expected text. The expected text is the
// text that an engine generates without faults.
//
// Every second worker runs a build with portable Go instead of assembly. This build may
// generate other bits, so it is another kernel class. The expected texts of its jobs come
// from an undisturbed service of the same build.
//
// If PgBouncer is installed, every second API and half of the workers use the database
// through it. The command kills PgBouncer too.
//
// The checks are plain functions of observations and stored events. The tests of these
// functions give them falsified results, because a checker that cannot fail shows
// nothing.
//
// The seed of a run decides when faults are injected and into which target. Processes and
// connections have their own timing. The same seed therefore repeats the faults and the
// jobs, but not the whole run.
package main
