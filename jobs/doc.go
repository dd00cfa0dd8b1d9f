// Package jobs turns accepted prompts into generated text. It is the only
// package that knows River.
//
// [Queue.Submit] records a job and queues it in one transaction: when it
// returns, the job will be finished by some worker, this process alive or not.
// The queue carries ids only. A [Worker] folds what is on record of a job and
// continues from the tokens already there, so a job that was interrupted ends
// with the text of one that was not; completing the job and completing its
// place in the queue are one transaction again. Where two workers have taken up
// the same job, the versions of its stream let one of them go on and stop the
// other.
package jobs
