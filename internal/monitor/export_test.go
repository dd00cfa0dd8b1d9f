package monitor

// Path returns the path of a tile, or of an entry bundle if the level is -1.
func Path(level, n, width int) string { return tileID{level, int64(n), width}.String() }
