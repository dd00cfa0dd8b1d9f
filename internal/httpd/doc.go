// Package httpd opens listeners and serves HTTP on them.
//
// It limits what a client may use before a handler sees its request: connections, the
// size and the duration of a request's head, idle time, HTTP/2 frames. It speaks TLS with
// a [Certificate] from files, which are read again when they change, or with certificates
// from an [ACME] authority. [Servers] stop together.
//
// It knows no flags and no routes: a listener serves an [http.Handler].
// [Listen] returns the errors of package net, [LoadCertificate] those of crypto/tls.
package httpd
