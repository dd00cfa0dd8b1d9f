package httpd

// withinDescriptors lowers a limit on connections to at most three quarters of a number
// of file descriptors. The other descriptors remain for the database and for files.
func withinDescriptors(connections int, descriptors uint64) int {
	return int(min(uint64(connections), descriptors-descriptors/4))
}
