package jobs

// Promote is promote, which runs every ten seconds.
var Promote = (*Worker).promote
