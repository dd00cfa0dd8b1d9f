// Package jobs turns accepted prompts into generated text. It is the only package
// that knows River.
//
// [Queue.Submit] records a job and queues it in one transaction. Once it returns, a
// worker will finish the job, even if this process dies. The queue carries job ids
// only.
//
// A [Worker] folds a job's events and continues from the tokens already on record.
// So an interrupted job ends with the same text as an undisturbed one. A job and its
// queue entry are completed in one transaction. If two workers run the same job, the
// versions of its stream let one of them continue and stop the other.
package jobs
