package policy

import "slices"

// Filter watches a text that is generated piece by piece and says how much of it
// may leave: what cannot be part of a word that is refused, whatever follows.
// All that it says depends on the rules and the text, and not on when it was
// said: a text that is taken up again where a piece has left is judged as one
// that was never put down.
//
// A Filter belongs to one goroutine at a time.
type Filter struct {
	scan    scan
	length  int   // of the text, in bytes
	ends    []int // of the pieces after free where the text could end
	free    int   // bytes of the text that may leave
	refused bool
}

// Filter returns a filter for a text that follows the prompt, and of which a
// part has left already. A word that begins in the prompt is refused as well, and
// so is one that is none with the prompt's last letters.
func (r *Rules) Filter(prompt, left string) *Filter {
	f := &Filter{scan: scan{rules: r}}
	for i, c := range prompt {
		letters(c, func(l letter) {
			f.scan.next(l, i-len(prompt)) // what is wrong with a prompt has been said elsewhere
		})
	}
	f.scan.threads = slices.DeleteFunc(f.scan.threads, func(t thread) bool { return f.scan.over(&t) })
	f.scan.last = between
	f.Add(left)
	f.free, f.ends = len(left), nil
	return f
}

// Add adds a piece, of whole characters, and returns how many bytes of the text
// may leave: up to the end of a piece, or, if the text is refused now, up to the
// word or the character that it is refused for. Nothing may follow then.
func (f *Filter) Add(piece string) (free int, refused bool) {
	if f.refused {
		return f.free, true
	}
	if start, refused := f.scan.read(piece, f.length); refused {
		return f.refuse(start)
	}
	f.length += len(piece)
	if _, over := f.scan.end(); !over {
		f.ends = append(f.ends, f.length)
	}
	certain := f.length
	if len(f.scan.threads) > 0 {
		certain = f.scan.threads[0].start
	}
	n := 0
	for n < len(f.ends) && f.ends[n] <= certain {
		f.free = f.ends[n]
		n++
	}
	f.ends = slices.Delete(f.ends, 0, n)
	return f.free, false
}

// End returns the same for a text to which nothing is added.
func (f *Filter) End() (free int, refused bool) {
	if f.refused {
		return f.free, true
	}
	if start, refused := f.scan.end(); refused {
		return f.refuse(start)
	}
	return f.length, false
}

func (f *Filter) refuse(start int) (free int, refused bool) {
	// A word may have begun in what had left before there were these rules, or
	// in the prompt.
	f.free, f.refused = max(f.free, start), true
	return f.free, true
}
