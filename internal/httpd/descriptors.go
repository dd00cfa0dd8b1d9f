package httpd

// withinDescriptors lowers a limit on connections to three quarters of a number of file
// descriptors. The others remain for the database and for files.
func withinDescriptors(connections int, descriptors uint64) int {
	return int(min(uint64(connections), descriptors-descriptors/4))
}
