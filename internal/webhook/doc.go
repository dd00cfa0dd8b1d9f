// Package webhook signs messages as Standard Webhooks (standardwebhooks.com) describes, and
// sends them to URLs that users have chosen. It is the only package that knows the library of
// Standard Webhooks.
//
// A [Sender] reaches public addresses only. It checks the address of each connection after
// the name was resolved and before anything is sent, so a name that changes its address
// between two lookups gains nothing. It follows no redirect, uses no proxy, and reads no more
// of an answer than its status and its headers.
package webhook
