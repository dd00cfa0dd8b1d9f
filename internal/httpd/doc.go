// Package httpd opens listeners and serves HTTP on them.
//
// The package limits the resources of a client before a handler sees the client's request:
// connections, the size and the duration of a request's head, idle time, and HTTP/2 frames.
// For TLS it uses a [Certificate] from files or certificates from an [ACME] authority. The
// files are read again when they change. All [Servers] of a process stop together.
//
// The package does not know the program's flags and routes. A listener serves an
// [http.Handler]. [Listen] returns the errors of package net. [LoadCertificate] returns the
// errors of package crypto/tls.
package httpd
