// Package chaos shows that an accepted job is a finished job, whatever happens
// to the processes that work on it.
//
// [Run] starts a service of its own: a private Postgres, API and worker
// processes of a given program, and a [Proxy] on every way between them. It
// submits jobs with fixed seeds and lets clients follow them, and for a time it
// kills, freezes, restarts and cuts off all of these at moments that a seed
// decides. Then it lets everything come to rest, reads what is on record, and
// holds each job and what each client has seen of it against the text that an
// engine generates undisturbed.
//
// What the clients see and what is on record is checked by rules that are plain
// functions of those two, so that they can be tried on results that have been
// tampered with: a checker that cannot fail shows nothing.
//
// The moments of the faults are the seed's; what they meet is not, because
// processes and connections have a course of their own. The same seed makes the
// same faults and the same jobs, not the same run.
package chaos
