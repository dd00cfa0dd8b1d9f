// Package jobs turns accepted prompts into generated text. It is the only package
// that knows River.
//
// [Queue.Submit] records a job and queues it in one transaction. After Submit has
// returned, the job ends, even if this process dies: a worker finishes it, or its
// deadline passes. Queue entries contain only job ids. All times in the queue are the
// database's.
//
// A [Worker] takes only jobs that were accepted for its weights. It replays a job's
// events and continues after the tokens on record. So an interrupted job ends with the
// same text as an uninterrupted job, if the text policy is the same and the worker has the
// same kernel fingerprint. A worker with another fingerprint takes a started job only
// after a minute, and the job says so. A job and its queue entry are completed in one
// transaction. If two workers run the same job, the version
// check of the job's stream lets one worker continue and stops the other.
//
// A [Replayer] re-executes recorded jobs with the code that workers run, and compares every
// token.
//
// A job fails after three failed attempts, or after five crashes of workers without a new
// token in between. A crash counts only for the job that the worker had started last. A
// job with a damaged event leaves the queue.
package jobs
