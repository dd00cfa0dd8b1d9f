// Package webhook signs messages as Standard Webhooks (standardwebhooks.com) describes, and
// sends them to URLs that users have chosen. It is the only package that knows the library of
// Standard Webhooks.
//
// A [Sender] reaches public addresses only, unless its [Policy] allows more. It checks the
// address of each connection after the name was resolved and before anything is sent, so a name
// that changes its address between two lookups gains nothing. It follows no redirect and uses no
// proxy. Of an answer it returns the status and the wait of Retry-After, and nothing else.
package webhook
