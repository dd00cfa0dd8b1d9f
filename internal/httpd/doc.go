// Package httpd opens listeners and serves HTTP on them.
//
// It bounds what a client may use before a handler sees its request: connections,
// the size and the time of a request's head, idle time, frames of HTTP/2. It speaks
// TLS with a [Certificate] from files, which it reads again when they change, or with
// certificates from an [ACME] authority. [Servers] are stopped together.
//
// It knows no flag and no route: what a listener serves is an [http.Handler].
// [Listen] returns the errors of package net, [LoadCertificate] those of crypto/tls.
package httpd
