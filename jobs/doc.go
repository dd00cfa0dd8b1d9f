// Package jobs turns accepted prompts into generated text. It is the only package
// that knows River.
//
// [Queue.Submit] records a job and queues it in one transaction. After Submit has
// returned, a worker will finish the job, even if this process dies. Queue entries
// contain only job ids. All times in the queue are the database's.
//
// A [Worker] replays a job's events and continues after the tokens on record. So an
// interrupted job ends with the same text as an uninterrupted job. A job and its queue
// entry are completed in one transaction. If two workers run the same job, the version
// check of the job's stream lets one worker continue and stops the other.
//
// A job fails after five crashes of workers without a new token in between. A crash counts
// only for the job that the worker had started last.
package jobs
