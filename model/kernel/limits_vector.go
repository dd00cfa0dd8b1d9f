//go:build amd64 && !purego

package kernel

//go:generate go -C gen run . -out ../limits_amd64.s -stubs ../limits_amd64.go -pkg kernel limits

func newLoops() loops {
	if !useAVX2 {
		return portableLoops()
	}
	const rounds = 1 << 12
	l := loops{
		fma: func() int {
			fmaLoop(rounds)
			return 768 * rounds
		},
		int8: func() int {
			int8Loop(rounds)
			return 3072 * rounds
		},
	}
	if useAVX512 {
		l.fma = func() int {
			fmaLoopWide(rounds)
			return 1536 * rounds
		}
		l.int8 = func() int {
			int8LoopWide(rounds)
			return 6144 * rounds
		}
	}
	return l
}

// readAll reads p, except for the last few bytes.
func readAll(p []byte) {
	if !useAVX2 {
		readPortably(p)
	} else if n := len(p) / 512; n > 0 {
		readLoop(&p[0], n)
	}
}
