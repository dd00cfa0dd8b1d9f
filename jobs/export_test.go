package jobs

// Promote is promote, which runs every ten seconds.
var Promote = (*Worker).promote

// EraseClosed is eraseClosed, which runs every five seconds.
var EraseClosed = (*Queue).eraseClosed
