// Package jobs turns accepted prompts into generated text. It is the only package
// that knows River.
//
// [Queue.Submit] records a job and queues it in one transaction. Once it returns,
// some worker will finish the job, whether or not this process lives. The queue
// carries job ids only.
//
// A [Worker] folds a job's events and continues from the tokens already on record.
// So an interrupted job ends with the same text as an undisturbed one. The job's
// completion and that of its queue entry are one transaction. If two workers run the
// same job, the versions of its stream let one of them continue and stop the other.
package jobs
